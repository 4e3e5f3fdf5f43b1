//! Several members in one process: what they make together, and what none of them can do alone.

use super::generate::{KeyGeneration, KeyShare, SealingPublic, array, info, way};
use super::growth::check_growth;
use super::handover::{link, next_keys, set_of_one, verify_chain, verify_order};
use super::sign::{Assembly, Member};
use super::{Seed, SignerKeys, ThresholdFault};
use crate::checkpoint::{Checkpoint, cell_key};
use crate::merkle::Tree;
use crate::note::Note;
use crate::proof::consistency_proof;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, OpModeS, Serializable};
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use wc_types::charter::{Charter, Founding, cell_id};
use wc_types::signers::{Handover, KeyCommitment, SealedShare, SignatureShare, SignedHead, SignerOrder};
use wc_types::{CellId, NodeId, Signed, SigningKey, Timestamp, from_canonical, to_canonical};

fn machine(name: u8) -> SigningKey {
    SigningKey::from_seed(&[name; 32])
}

fn seed(number: u32) -> Seed {
    let mut bytes = [0x5e; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Seed::new(bytes)
}

fn founding() -> Signed<Founding> {
    let founding = Founding {
        network: "test".to_owned(),
        coordinator: machine(1).node_id(),
        owner: machine(200).account_id(),
        charter: Charter::default(),
        founded_at: Timestamp(1),
    };
    Signed::seal(founding, &machine(1))
}

fn order(keys: &SignerKeys, threshold: u16, names: &[u8]) -> Signed<SignerOrder> {
    let mut members: Vec<NodeId> = names.iter().map(|name| machine(*name).node_id()).collect();
    members.sort();
    let order = SignerOrder {
        cell: cell_id(&founding()),
        epoch: keys.epoch + 1,
        previous: keys.id,
        threshold,
        members,
        owner: machine(200).account_id(),
        at: Timestamp(2),
    };
    Signed::seal(order, &machine(200))
}

/// The first two rounds for everybody: what each has to be sent.
fn dealt(
    order: &Signed<SignerOrder>,
    names: &[u8],
    salt: u32,
) -> (Vec<super::generate::Dealing>, Vec<Signed<SealedShare>>) {
    let (mut parts, mut commitments) = (Vec::new(), Vec::new());
    for name in names {
        let begun = KeyGeneration::begin(order, &machine(*name), seed(salt + u32::from(*name)));
        let (part, commitment) = begun.expect("a member");
        parts.push(part);
        commitments.push(commitment);
    }
    let (mut dealings, mut shares) = (Vec::new(), Vec::new());
    for part in parts {
        let (dealing, own) = part.deal(&commitments).expect("honest");
        dealings.push(dealing);
        shares.extend(own);
    }
    (dealings, shares)
}

fn generate(order: &Signed<SignerOrder>, names: &[u8], salt: u32) -> Vec<KeyShare> {
    let (dealings, shares) = dealt(order, names, salt);
    let mine = |name: u8| -> Vec<Signed<SealedShare>> {
        shares.iter().filter(|share| share.to == machine(name).node_id()).cloned().collect()
    };
    dealings.into_iter().zip(names).map(|(part, name)| part.collect(&mine(*name)).expect("honest")).collect()
}

/// Lets those members sign; each by the same calls, whatever the size of the set.
fn sign(members: &[&Member], message: &[u8], salt: u32) -> Result<[u8; 64], ThresholdFault> {
    let keys = members[0].keys().clone();
    let (mut nonces, mut commitments) = (Vec::new(), Vec::new());
    for (number, member) in (0u32..).zip(members) {
        let (secret, commitment) = member.commit(seed(salt + number));
        nonces.push(secret);
        commitments.push(commitment);
    }
    let assembly = Assembly::begin(&keys, message, commitments)?;
    let request = assembly.request().clone();
    let shares: Result<Vec<SignatureShare>, _> =
        members.iter().zip(nonces).map(|(member, nonces)| member.sign(nonces, &request)).collect();
    assembly.finish(&shares?)
}

/// A cell whose chain can be lengthened.
struct Chain {
    founding: Signed<Founding>,
    links: Vec<Handover>,
    members: Vec<Member>,
}

impl Chain {
    fn new() -> Self {
        let founding = founding();
        let alone = Member::alone(SignerKeys::founding(&founding), &machine(1)).expect("its coordinator");
        Self { founding, links: vec![], members: vec![alone] }
    }

    fn keys(&self) -> SignerKeys {
        verify_chain(&self.founding, &self.links).expect("holds")
    }

    fn quorum(&self) -> Vec<&Member> {
        self.members.iter().take(usize::from(self.keys().threshold)).collect()
    }

    /// Hands over to `threshold` of the machines `names`.
    fn hand_over(&mut self, threshold: u16, names: &[u8], salt: u32) {
        let (old, cell) = (self.keys(), cell_id(&self.founding));
        let order = order(&old, threshold, names);
        verify_order(&self.founding, &old, &order).expect("the owner's");
        let (set, members) = if let [only] = names {
            let set = set_of_one(&order, machine(*only).node_id());
            let keys = next_keys(&old, &cell, &set).expect("follows");
            (set, vec![Member::alone(keys, &machine(*only)).expect("its own")])
        } else {
            let shares = generate(&order, names, salt);
            let set = shares[0].set(&order).expect("its order");
            assert!(shares.iter().all(|share| share.set(&order).as_ref() == Ok(&set)), "one view");
            let keys = next_keys(&old, &cell, &set).expect("follows");
            let member = |share| Member::with_share(keys.clone(), share).expect("its set");
            (set, shares.iter().map(member).collect())
        };
        let message = wc_types::record_cid(&set).to_bytes();
        let quorum: Vec<&Member> = members.iter().take(usize::from(threshold)).collect();
        let accepted = sign(&quorum, &message, salt + 1000).expect("new signers");
        let signature = sign(&self.quorum(), &message, salt + 2000).expect("old signers");
        self.links.push(link(&set, old.group, signature, accepted).expect("signed"));
        self.members = members;
    }

    fn cell(&self) -> CellId {
        cell_id(&self.founding)
    }
}

#[test]
fn any_threshold_of_the_members_make_a_note_that_a_plain_verifier_accepts() {
    for (threshold, count) in [(1u16, 1u8), (2, 3), (3, 5), (4, 7)] {
        let mut chain = Chain::new();
        let names: Vec<u8> = (1..=count).collect();
        chain.hand_over(threshold, &names, 10_000);
        let checkpoint = Checkpoint::new(&chain.cell(), 7, [3; 32]);
        let text = checkpoint.to_text();
        for first in 0..=usize::from(count) - usize::from(threshold) {
            let quorum: Vec<&Member> = chain.members[first..first + usize::from(threshold)].iter().collect();
            let signature = sign(&quorum, text.as_bytes(), 20_000).expect("signs");
            let note =
                Note::with_signature(text.clone(), checkpoint.origin.clone(), &chain.keys().group, signature)
                    .expect("a note");
            let note = Note::parse(&note.to_string()).expect("parses");
            let key = cell_key(&chain.cell(), chain.keys().group);
            assert_eq!(Checkpoint::open(&note, &key), Ok(checkpoint.clone()), "{threshold} of {count}");
            // The founding key is not the group's any more, unless it is alone.
            let old = cell_key(&chain.cell(), machine(1).public());
            assert_eq!(Checkpoint::open(&note, &old).is_ok(), count == 1);
        }
        // All of them may sign as well.
        let all: Vec<&Member> = chain.members.iter().collect();
        sign(&all, text.as_bytes(), 30_000).expect("signs");
    }
}

#[test]
fn fewer_than_the_threshold_can_do_nothing() {
    for (threshold, count) in [(2u16, 3u8), (3, 5), (4, 7)] {
        let mut chain = Chain::new();
        chain.hand_over(threshold, &(1..=count).collect::<Vec<u8>>(), 1);
        let few: Vec<&Member> = chain.members.iter().take(usize::from(threshold) - 1).collect();
        let fault = sign(&few, b"text", 2).expect_err("too few");
        let (have, need) = (usize::from(threshold) - 1, usize::from(threshold));
        assert_eq!(fault, ThresholdFault::TooFew { have, need });
        // Nor does one of them sign for two.
        let (nonces, commitment) = chain.members[0].commit(seed(3));
        let request = wc_types::signers::SigningRequest {
            set: chain.keys().id,
            message: b"text".to_vec(),
            commitments: vec![commitment; need],
        };
        assert!(matches!(chain.members[0].sign(nonces, &request), Err(ThresholdFault::Declined { .. })));
    }
}

#[test]
fn a_wrong_part_names_its_author_and_the_others_sign_without_it() {
    let mut chain = Chain::new();
    chain.hand_over(3, &[1, 2, 3, 4, 5], 1);
    let keys = chain.keys();
    let attempt = |members: &[&Member], spoilt: &[usize], salt: u32| {
        let (mut nonces, mut commitments) = (Vec::new(), Vec::new());
        for (number, member) in (0u32..).zip(members) {
            let (secret, commitment) = member.commit(seed(salt + number));
            nonces.push(secret);
            commitments.push(commitment);
        }
        let assembly = Assembly::begin(&keys, b"text", commitments).expect("begins");
        let request = assembly.request().clone();
        let mut shares = Vec::new();
        for (number, (member, nonces)) in members.iter().zip(nonces).enumerate() {
            let mut share = member.sign(nonces, &request).expect("signs");
            if spoilt.contains(&number) {
                share.share[3] ^= 1;
            }
            shares.push(share);
        }
        assembly.finish(&shares)
    };
    let all: Vec<&Member> = chain.members.iter().collect();
    let node = |place: usize| keys.members[place].node;
    // Members are in the order of their machines' ids, which is not that of their names.
    let of = |members: &[&Member], place: usize| members[place].commit(seed(99)).1.node;
    let fault = attempt(&all[..3], &[1], 100).expect_err("one is wrong");
    assert_eq!(fault.culprits(), [of(&all, 1)]);
    let fault = attempt(&all, &[0, 4], 200).expect_err("two are wrong");
    let mut guilty = vec![of(&all, 0), of(&all, 4)];
    guilty.sort();
    assert_eq!(fault.culprits(), guilty);
    assert!(fault.to_string().contains(&guilty[0].to_string()), "{fault}");
    assert!((0..5).any(|place| node(place) == guilty[0]));
    let honest: Vec<&Member> =
        all.iter().copied().filter(|member| !guilty.contains(&member.commit(seed(99)).1.node)).collect();
    attempt(&honest, &[], 300).expect("the others sign");
    // A part that is missing, and one that is no number at all.
    let (nonces, first) = all[0].commit(seed(400));
    let (_, second) = all[1].commit(seed(401));
    let (_, third) = all[2].commit(seed(402));
    let assembly = Assembly::begin(&keys, b"text", vec![first, second.clone(), third]).expect("begins");
    let share = all[0].sign(nonces, assembly.request()).expect("signs");
    let absent = assembly.finish(std::slice::from_ref(&share)).expect_err("two are missing");
    assert!(matches!(absent, ThresholdFault::Missing { .. }));
    let mut broken = second;
    broken.hiding = [0xff; 32];
    let refused = Assembly::begin(
        &keys,
        b"text",
        vec![broken.clone(), all[0].commit(seed(403)).1, all[2].commit(seed(404)).1],
    );
    assert_eq!(refused.expect_err("no point").culprits(), [broken.node]);
}

#[test]
fn a_member_signs_only_with_the_commitment_that_it_made_for_this_request() {
    let mut chain = Chain::new();
    chain.hand_over(2, &[1, 2, 3], 1);
    let keys = chain.keys();
    let (nonces, _) = chain.members[0].commit(seed(1));
    let (_, other) = chain.members[0].commit(seed(2));
    let (_, second) = chain.members[1].commit(seed(3));
    let request = Assembly::begin(&keys, b"text", vec![other, second]).expect("begins").request().clone();
    let fault = chain.members[0].sign(nonces, &request).expect_err("not its own");
    assert_eq!(fault.code().name, "WC-LEDGER-145");
    let mut elsewhere = request.clone();
    elsewhere.set = keys.members.first().map(|_| SignerKeys::founding(&chain.founding).id).expect("there");
    let (nonces, _) = chain.members[0].commit(seed(4));
    assert!(chain.members[0].sign(nonces, &elsewhere).is_err());
    let mut long = request;
    long.message = vec![0; 5000];
    let (nonces, _) = chain.members[0].commit(seed(5));
    assert!(chain.members[0].sign(nonces, &long).is_err());
}

#[test]
fn a_share_that_its_commitment_denies_names_the_dealer() {
    let keys = SignerKeys::founding(&founding());
    let order = order(&keys, 2, &[1, 2, 3]);
    let (dealings, shares) = dealt(&order, &[1, 2, 3], 1);
    let victim = machine(1).node_id();
    // Machine 2 seals a number that is not on its polynomial: under the right transcript, to the right key, signed.
    let commitment = KeyGeneration::begin(&order, &machine(1), seed(2)).expect("the same seed").1;
    let public = SealingPublic::from_bytes(&commitment.sealing).expect("a key");
    let mut number = [0; 32];
    number[0] = 1;
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &info(&shares[0].transcript),
            &number,
            &way(&machine(2).node_id(), &victim),
            &mut seed(9).randomness(),
        )
        .expect("seals");
    let forged = SealedShare {
        transcript: shares[0].transcript,
        from: machine(2).node_id(),
        to: victim,
        encapsulated: array(&encapsulated.to_bytes()),
        ciphertext: array(&ciphertext),
    };
    let mut received: Vec<Signed<SealedShare>> =
        shares.iter().filter(|share| share.to == victim && share.from != forged.from).cloned().collect();
    received.push(Signed::seal(forged, &machine(2)));
    let fault = dealings.into_iter().next().expect("first").collect(&received).expect_err("refused");
    assert_eq!(fault.culprits(), [machine(2).node_id()]);
    assert!(fault.to_string().contains("its commitment denies"), "{fault}");
    // Whoever was shown other commitments says so, too.
    let (second, sealed) = dealt(&order, &[1, 2, 3], 500);
    let mut stray: Vec<_> = sealed.iter().filter(|share| share.to == victim).cloned().collect();
    stray[0] = Signed::seal(SealedShare { transcript: [9; 32], ..(*stray[0]).clone() }, &machine(2));
    let fault = second.into_iter().next().expect("first").collect(&stray).expect_err("refused");
    assert_eq!(fault.culprits(), [machine(2).node_id()]);
    assert!(fault.to_string().contains("view of the commitments"));
}

#[test]
fn a_commitment_that_is_false_missing_or_of_others_is_refused_by_name() {
    let keys = SignerKeys::founding(&founding());
    let order = order(&keys, 2, &[1, 2, 3]);
    let begin = |name: u8| KeyGeneration::begin(&order, &machine(name), seed(u32::from(name)));
    let with = |change: &dyn Fn(&mut KeyCommitment)| {
        let (first, one) = begin(1).expect("member");
        let (_, two) = begin(2).expect("member");
        let (_, three) = begin(3).expect("member");
        let mut changed = (*two).clone();
        change(&mut changed);
        first.deal(&[one, Signed::seal(changed, &machine(2)), three]).map(drop)
    };
    assert_eq!(with(&|_| {}), Ok(()));
    let lies: [&dyn Fn(&mut KeyCommitment); 7] = [
        &|said| said.proof[40] ^= 1,
        &|said| said.proof = [0xff; 64],
        &|said| said.coefficients.truncate(1),
        &|said| said.coefficients.swap(0, 1),
        &|said| said.coefficients[0] = serde_bytes::ByteArray::new([0xff; 32]),
        &|said| said.node = machine(3).node_id(),
        &|said| said.order = keys.id,
    ];
    for (row, lie) in lies.iter().enumerate() {
        assert_eq!(with(*lie).expect_err("a lie").culprits(), [machine(2).node_id()], "row {row}");
    }
    let (first, one) = begin(1).expect("member");
    let (_, two) = begin(2).expect("member");
    let absent = first.deal(&[one, two]).expect_err("one is missing");
    assert_eq!(absent, ThresholdFault::Missing { node: machine(3).node_id(), what: "commitment" });
    assert!(matches!(begin(9), Err(ThresholdFault::NotMember { .. })));
    // A replayed message of this member's own earlier part.
    let (part, _) = begin(1).expect("member");
    let older = KeyGeneration::begin(&order, &machine(1), seed(88)).expect("member").1;
    let replayed = part.deal(&[older, begin(2).expect("member").1, begin(3).expect("member").1]);
    assert!(matches!(replayed, Err(ThresholdFault::Declined { .. })));
}

#[test]
fn a_share_survives_its_file_and_a_damaged_one_is_refused() {
    let keys = SignerKeys::founding(&founding());
    let order = order(&keys, 2, &[1, 2, 3]);
    let shares = generate(&order, &[1, 2, 3], 1);
    let bytes = shares[0].to_bytes();
    let back = KeyShare::from_bytes(&bytes).expect("reads");
    assert_eq!(*back.to_bytes(), *bytes);
    assert!(!format!("{back:?}").contains("secret"), "nothing is printed");
    for place in 0..bytes.len() {
        let mut copy = bytes.to_vec();
        copy[place] ^= 1;
        // Every flip breaks the share, or turns it into one that belongs to no set that anybody signed.
        if let Ok(other) = KeyShare::from_bytes(&copy) {
            let whole = shares[0].set(&order).expect("its order");
            assert_ne!(other.set(&order).ok(), Some(whole), "byte {place}");
        }
    }
    assert!(KeyShare::from_bytes(b"").is_err());
}

#[test]
fn the_chain_leads_from_the_founding_through_every_set() {
    let mut chain = Chain::new();
    assert_eq!(chain.keys().epoch, 0);
    chain.hand_over(2, &[1, 2, 3], 1);
    chain.hand_over(3, &[2, 3, 4, 5, 6], 100);
    chain.hand_over(1, &[7], 200);
    chain.hand_over(2, &[1, 7], 300);
    let keys = chain.keys();
    assert_eq!((keys.epoch, keys.threshold, keys.members.len()), (4, 2, 2));
    // Without a link, in another order, or with a link twice, it ends where it breaks.
    for (links, epoch) in [
        (vec![1, 2, 3], 1),
        (vec![0, 2, 3], 2),
        (vec![0, 1, 3], 3),
        (vec![1, 0, 2, 3], 1),
        (vec![0, 0, 1, 2, 3], 2),
    ] {
        let links: Vec<Handover> = links.into_iter().map(|place: usize| chain.links[place].clone()).collect();
        assert_eq!(verify_chain(&chain.founding, &links).expect_err("broken").epoch, epoch);
    }
    let mut unaccepted = chain.links.clone();
    unaccepted[1].accepted[5] ^= 1;
    let fault = verify_chain(&chain.founding, &unaccepted).expect_err("refused");
    assert_eq!((fault.epoch, fault.code().name), (2, "WC-LEDGER-147"));
    let other =
        Signed::seal(Founding { network: "other".to_owned(), ..(*chain.founding).clone() }, &machine(1));
    assert!(verify_chain(&other, &chain.links).is_err());
    let long = vec![chain.links[0].clone(); 257];
    assert!(verify_chain(&chain.founding, &long).expect_err("too long").what.contains("256"));
}

#[test]
fn after_a_hand_over_the_old_shares_sign_for_nobody() {
    let mut chain = Chain::new();
    chain.hand_over(2, &[1, 2, 3], 1);
    let stolen_keys = chain.keys();
    let order = order(&SignerKeys::founding(&founding()), 2, &[1, 2, 3]);
    let stolen = generate(&order, &[1, 2, 3], 1);
    chain.hand_over(2, &[1, 2, 3], 50);
    let now = chain.keys();
    assert_ne!(stolen_keys.group, now.group, "a new key, although the members are the same");
    let refused = Member::with_share(now.clone(), &stolen[0]).expect_err("another set");
    assert_eq!(refused.code().name, "WC-LEDGER-146");
    // Thieves of all old shares sign a checkpoint: it verifies under the old key, not under the one that the chain names.
    let thieves: Vec<Member> =
        stolen.iter().map(|share| Member::with_share(stolen_keys.clone(), share).expect("old set")).collect();
    let checkpoint = Checkpoint::new(&chain.cell(), 9, [1; 32]);
    let signature =
        sign(&thieves.iter().collect::<Vec<_>>(), checkpoint.to_text().as_bytes(), 5).expect("old key");
    let note = Note::with_signature(checkpoint.to_text(), checkpoint.origin.clone(), &now.group, signature)
        .expect("note");
    assert!(Checkpoint::open(&note, &cell_key(&chain.cell(), now.group)).is_err());
}

#[test]
fn only_the_owner_orders_and_only_the_next_set() {
    let mut chain = Chain::new();
    chain.hand_over(2, &[1, 2, 3], 1);
    let keys = chain.keys();
    let good = order(&keys, 2, &[1, 2, 4]);
    assert_eq!(verify_order(&chain.founding, &keys, &good), Ok(()));
    let changed = |change: &dyn Fn(&mut SignerOrder), key: u8| {
        let mut order = (*good).clone();
        change(&mut order);
        verify_order(&chain.founding, &keys, &Signed::seal(order, &machine(key))).is_err()
    };
    assert!(changed(&|_| {}, 1), "the coordinator alone cannot");
    assert!(changed(&|order| order.owner = machine(1).account_id(), 1));
    assert!(changed(&|order| order.epoch = 1, 200));
    assert!(changed(&|order| order.previous = chain.founding.cid(), 200));
    assert!(changed(&|order| order.cell = CellId([9; 32]), 200));
    assert!(changed(&|order| order.threshold = 1, 200));
    assert!(changed(&|order| order.members.clear(), 200));
}

#[test]
fn a_member_signs_growth_and_nothing_else() {
    let cell = cell_id(&founding());
    let mut hashes = BTreeMap::new();
    let mut tree = Tree::new();
    let mut roots = vec![tree.root()];
    for leaf in 0u8..20 {
        tree.push_with(crate::merkle::hash_leaf(&[leaf]), |level, index, hash| {
            hashes.insert((level, index), *hash);
        });
        roots.push(tree.root());
    }
    let proof = |from: u64, to: u64| {
        consistency_proof(from, to, |level, index| hashes.get(&(level, index)).copied()).expect("proof")
    };
    let text = |size: u64, root| Checkpoint::new(&cell, size, root).to_text();
    let first = check_growth(&cell, None, &text(5, roots[5]), &[]).expect("the first");
    assert_eq!(first, SignedHead { size: 5, root: roots[5] });
    let grown = check_growth(&cell, Some(&first), &text(17, roots[17]), &proof(5, 17)).expect("grew");
    assert_eq!(check_growth(&cell, Some(&grown), &text(17, roots[17]), &[]), Ok(grown), "the same again");
    let refused = [
        (text(16, roots[16]), proof(16, 17), "WC-LEDGER-149"),
        (text(17, [9; 32]), vec![], "WC-LEDGER-150"),
        (text(18, [9; 32]), proof(17, 18), "WC-LEDGER-150"),
        (text(18, roots[18]), vec![], "WC-LEDGER-150"),
        (text(18, roots[18]).replace("cell_", "cell-"), proof(17, 18), "WC-LEDGER-148"),
        (Checkpoint::new(&CellId([1; 32]), 18, roots[18]).to_text(), proof(17, 18), "WC-LEDGER-148"),
        (text(18, roots[18]) + "more\n", proof(17, 18), "WC-LEDGER-148"),
        ("hello\n".to_owned(), vec![], "WC-LEDGER-040"),
    ];
    for (row, (text, proof, code)) in refused.into_iter().enumerate() {
        let fault = check_growth(&cell, Some(&grown), &text, &proof).expect_err("refused");
        assert_eq!(fault.code().name, code, "row {row}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A flipped bit anywhere in a message of the protocol is refused, or what comes out is right all the same.
    #[test]
    fn a_flipped_bit_in_any_message_is_refused_or_harmless(
        which in 0usize..4,
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let flip = |bytes: &mut Vec<u8>| {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        };
        let keys = SignerKeys::founding(&founding());
        let order = order(&keys, 2, &[1, 2]);
        let (first, one) = KeyGeneration::begin(&order, &machine(1), seed(1)).expect("member");
        let (second, two) = KeyGeneration::begin(&order, &machine(2), seed(2)).expect("member");
        let mut bytes = to_canonical(&two);
        if which == 0 {
            flip(&mut bytes);
            prop_assert!(from_canonical::<Signed<KeyCommitment>>(&bytes).is_err());
        }
        let (first, _) = first.deal(&[one.clone(), two.clone()]).expect("honest");
        let (second, shares) = second.deal(&[one, two]).expect("honest");
        let mut bytes = to_canonical(&shares[0]);
        if which == 1 {
            flip(&mut bytes);
            prop_assert!(from_canonical::<Signed<SealedShare>>(&bytes).is_err());
        }
        let share = first.collect(&shares).expect("honest");
        drop(second);
        let other = generate(&order, &[1, 2], 0).remove(1);
        let set = share.set(&order).expect("order");
        let keys = next_keys(&keys, &cell_id(&founding()), &set).expect("follows");
        let members = [
            Member::with_share(keys.clone(), &share).expect("its set"),
            Member::with_share(keys.clone(), &other).expect("the same seeds"),
        ];
        let (nonces, commitment) = members[0].commit(seed(3));
        let (others, second) = members[1].commit(seed(4));
        let mut bytes = to_canonical(&second);
        if which == 2 {
            flip(&mut bytes);
        }
        let Ok(received) = from_canonical(&bytes) else { return Ok(()) };
        let Ok(assembly) = Assembly::begin(&keys, b"text", vec![commitment, received]) else { return Ok(()) };
        let request = assembly.request().clone();
        let Ok(first) = members[0].sign(nonces, &request) else { return Ok(()) };
        let Ok(last) = members[1].sign(others, &request) else { return Ok(()) };
        let mut bytes = to_canonical(&last);
        if which == 3 {
            flip(&mut bytes);
        }
        let Ok(last) = from_canonical::<SignatureShare>(&bytes) else { return Ok(()) };
        match assembly.finish(&[first, last]) {
            Ok(signature) => {
                prop_assert!(which < 2, "nothing was flipped on the way");
                prop_assert!(wc_types::sign::verify_bytes(&keys.group, b"text", &signature).is_ok());
            }
            Err(fault) => prop_assert!(which >= 2, "{fault}"),
        }
    }
}

#[test]
fn a_share_of_a_length_that_cannot_be_is_refused() {
    let mut chain = Chain::new();
    chain.hand_over(2, &[1, 2], 1);
    for length in [0, 31, 33, 64] {
        let keys = chain.keys();
        let (nonces, one) = chain.members[0].commit(seed(1));
        let (_, two) = chain.members[1].commit(seed(2));
        let node = two.node;
        let assembly = Assembly::begin(&keys, b"text", vec![one, two]).expect("begins");
        let first = chain.members[0].sign(nonces, assembly.request()).expect("signs");
        let second = SignatureShare { node, share: ByteBuf::from(vec![1; length]) };
        assert_eq!(assembly.finish(&[first, second]).expect_err("refused").culprits(), [node]);
    }
}
