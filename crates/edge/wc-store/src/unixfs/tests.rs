//! Tests of the layout against CIDs that other implementations print.

use proptest::prelude::*;

use super::*;

/// Byte `i` of the patterned files: the top byte of `i * 2654435761 mod 2^32`.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| ((index as u32).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn check(name: &str, bytes: &[u8], expected: &str) {
    assert_eq!(cid_of_file(bytes).to_string(), expected, "{name} of {} bytes", bytes.len());
}

#[test]
fn published_examples_have_the_published_cids() {
    // "hello world": kubo, test/cli/add_test.go (shortStringCidV1).
    check("text", b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
    // Zeros of exactly one chunk, 174 chunks, and one byte more: the tests `hash_dag_level_0`, `hash_dag_level_1` and
    // `hash_dag_level_2_entry` of published Rust hashing crates state these three CIDs.
    let zeros = vec![0; 174 * 262_144 + 1];
    check("zeros", &zeros[..262_144], "bafkreiekhhjkxu4ztk3tyng3er3ijhg56mb44oe3gwbgquhzu4afrg2ksa");
    check("zeros", &zeros[..174 * 262_144], "bafybeibxsa3ioclowpaq7b6gxl65gzqneopfr3fnhedak6sqr4bjz5lnyq");
    check("zeros", &zeros, "bafybeihqwzd3o6q6v3pmwhzjy22vokhr767burokmqemg63hptx2nqd7ym");
}

#[test]
fn a_second_implementation_gives_the_same_cids() {
    // Made with `ipfs-unixfs-importer` 17.1.1 and `blockstore-core` 7.0.1 from npm:
    //   importer([{ content }], new BlackHoleBlockstore(), { cidVersion: 1, rawLeaves: true,
    //     reduceSingleLeafToSelf: true, wrapWithDirectory: false, chunker: fixedSize({ chunkSize: 262144 }),
    //     layout: balanced({ maxChildrenPerNode: 174 }) })
    let data = pattern(91_226_117);
    for (count, expected) in [
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (262_143, "bafkreibvbaollm3i4vb2whnxqniekgixcmmbkhwcnz3iejkn5r3aczje7q"),
        (262_144, "bafkreiecq6sthzzdvpdhqwwpdczxx26e4t3e5wmnzviqmqdphldgfqoe3m"),
        (262_145, "bafybeigipb3upfgc7d3pg3llsnskvcftvdsi6mhqvmuxde2mq3do4gk47m"),
        (1_048_576, "bafybeifqu3upgg6x5mxduacgwi4muapop4ypaiyd2yudie5upug33rp6im"),
        (45_613_055, "bafybeigrdtabqagmioygmo5nfez4sc3bptbwbnu5ew62fzqkpkfv62jin4"),
        (45_613_056, "bafybeidimne5wf5ewfzo7j3i6rqielsyhrfd3gchn3xe5vjxbzxs5d5rye"),
        (45_613_057, "bafybeiajrrb2wso56upygo5ncasyf7ychzfsllqzv4yen5vlyacji47x5q"),
        (60_000_000, "bafybeigbanioopq4reitaolgppvz2cjnyg46cuxzr72jcnkvdbvdmlgtku"),
        (91_226_117, "bafybeigsb5havtlzb2c3iexgcky2dy3gtiew3v3wwrpransfasol5lgiaa"),
    ] {
        check("pattern", &data[..count], expected);
    }
}

#[test]
fn a_tree_of_three_levels_has_the_cid_of_the_second_implementation() {
    // The same program over zeros of 1 GiB, of 174 * 174 chunks, and of one byte more (four levels).
    let chunk = sha256(&[0; 262_144]);
    for (file_bytes, expected) in [
        (1_073_741_824, "bafybeia7htaedmgblsifdxucvswgyjxf7mpscfbfurmgnnc6vcz3tzjiz4"),
        (7_936_671_744, "bafybeidxp6macmsb2fl24g2urxdvecsmmuspexpjyxcav2wyazeytjh5yi"),
        (7_936_671_745, "bafybeic3bmw3lls6npgpysoz7577inmexlh7ulmlepk4qypu72heonqfhu"),
    ] {
        let layout = Layout::of(file_bytes).unwrap();
        let mut leaves = vec![chunk; layout.leaves() as usize];
        if file_bytes % CHUNK_BYTES == 1 {
            *leaves.last_mut().unwrap() = sha256(&[0]);
        }
        assert_eq!(Tree::build(layout, leaves).cid().to_string(), expected);
    }
}

#[test]
fn a_root_that_lies_about_its_length_is_refused() {
    let data = pattern(600_000);
    let layout = Layout::of(600_000).unwrap();
    let tree = Tree::build(layout, data.chunks(262_144).map(sha256).collect());
    assert_eq!(decode_root(&tree.root_block), Ok((layout, tree.levels[0].clone())));
    for at in 0..tree.root_block.len() {
        for bit in 0..8 {
            let mut bad = tree.root_block.clone();
            bad[at] ^= 1 << bit;
            // A flipped bit inside a digest names other leaves; anywhere else the node is refused.
            if let Ok((other, leaves)) = decode_root(&bad) {
                assert_eq!(other, layout);
                assert_ne!(leaves, tree.levels[0]);
            }
        }
    }
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_root(&bytes);
    }

    #[test]
    fn the_encoded_length_is_known_in_advance(file_bytes in CHUNK_BYTES + 1..FILE_BYTES_MAX, level in 1u8..4, pick in any::<u32>()) {
        let layout = Layout::of(file_bytes).unwrap();
        let level = level.min(layout.height());
        let place = Place { level, ordinal: pick % layout.width(level) as u32 };
        let children = vec![[7; 32]; layout.children(place).len()];
        let block = layout.encode(place, &children);
        prop_assert_eq!(block.len() as u64, node_bytes(level, layout.bytes_below(place)));
        prop_assert_eq!(layout.decode(place, &block).unwrap(), children);
    }
}
