// Command logcheck reads and writes transparency logs with golang.org/x/mod/sumdb/{tlog,note}, which we did not write,
// so that a test can hold our logs against it.
//
//	logcheck read DIR VKEY [WITNESS-VKEY...]   checkpoint, every tile, every entry, every proof; exit 1 if one is wrong
//	logcheck proofs < LINES                    checks proofs that we made
//	logcheck write DIR NAME COUNT              writes a log of COUNT records and prints its verifier key
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 3 && args[0] == "read":
		return read(args[1], args[2], args[3:])
	case len(args) == 1 && args[0] == "proofs":
		return proofs()
	case len(args) == 4 && args[0] == "write":
		count, err := strconv.ParseInt(args[3], 10, 64)
		if err != nil {
			return err
		}
		return write(args[1], args[2], count)
	}
	return fmt.Errorf("usage: read DIR VKEY [WITNESS-VKEY...] | proofs | write DIR NAME COUNT")
}

// path is the C2SP path of a tile: the Go checksum database has the height in it, C2SP fixes it to 8.
func path(t tlog.Tile) string {
	p := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(p, "tile/data/", "tile/entries/", 1)
}

// witness is a verifier of C2SP tlog-cosignature, which the note package does not know.
type witness struct {
	name string
	key  ed25519.PublicKey
	hash uint32
}

func newWitness(vkey string) (*witness, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("malformed witness key %q", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		return nil, fmt.Errorf("%q is not a key of type 4", vkey)
	}
	sum := sha256.Sum256([]byte(parts[0] + "\n" + string(key)))
	hash := binary.BigEndian.Uint32(sum[:4])
	if fmt.Sprintf("%08x", hash) != parts[1] {
		return nil, fmt.Errorf("%q has another hash, %08x", vkey, hash)
	}
	return &witness{parts[0], key[1:], hash}, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(msg, sig []byte) bool {
	if len(sig) != 72 {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(w.key, []byte(signed), sig[8:])
}

// tilesOf returns the tiles of a log of size entries, partial ones only at its edge.
func tilesOf(size int64) (all []tlog.Tile) {
	for level := 0; size > 0; level++ {
		for n := int64(0); n<<height < size; n++ {
			width := size - n<<height
			if width > 1<<height {
				width = 1 << height
			}
			all = append(all, tlog.Tile{H: height, L: level, N: n, W: int(width)})
		}
		size >>= height
	}
	return all
}

type tiles struct{ dir string }

func (t tiles) Height() int                         { return height }
func (t tiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (t tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range want {
		b, err := os.ReadFile(filepath.Join(t.dir, path(tile)))
		if os.IsNotExist(err) && tile.W < 1<<height {
			full := tile
			full.W = 1 << height
			b, err = os.ReadFile(filepath.Join(t.dir, path(full)))
			if err == nil && len(b) == tlog.HashSize<<height {
				b = b[:tile.W*tlog.HashSize]
			}
		}
		if err != nil {
			return nil, err
		}
		if len(b) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", path(tile), len(b))
		}
		data = append(data, b)
	}
	return data, nil
}

func checkpoint(dir, vkey string, witnesses []string) (tlog.Tree, int, error) {
	var tree tlog.Tree
	msg, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return tree, 0, err
	}
	key, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, 0, err
	}
	known := []note.Verifier{key}
	for _, vkey := range witnesses {
		w, err := newWitness(vkey)
		if err != nil {
			return tree, 0, err
		}
		known = append(known, w)
	}
	opened, err := note.Open(msg, note.VerifierList(known...))
	if err != nil {
		return tree, 0, err
	}
	cosigned, signed := 0, false
	for _, sig := range opened.Sigs {
		if sig.Name == key.Name() && sig.Hash == key.KeyHash() {
			signed = true
		} else {
			cosigned++
		}
	}
	if !signed {
		return tree, 0, fmt.Errorf("the log itself has not signed")
	}
	if cosigned < len(witnesses) {
		return tree, 0, fmt.Errorf("%d of %d witnesses have cosigned", cosigned, len(witnesses))
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != key.Name() {
		return tree, 0, fmt.Errorf("the checkpoint is of another log")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, 0, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, cosigned, err
}

func read(dir, vkey string, witnesses []string) error {
	tree, cosigned, err := checkpoint(dir, vkey, witnesses)
	if err != nil {
		return err
	}
	reader := tlog.TileHashReader(tree, tiles{dir})
	// Every tile, authenticated against the root.
	for _, tile := range tilesOf(tree.N) {
		want, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return fmt.Errorf("%s: %v", path(tile), err)
		}
		have, err := tiles{dir}.ReadTiles([]tlog.Tile{tile})
		if err != nil {
			return err
		}
		if !bytes.Equal(want, have[0]) {
			return fmt.Errorf("%s is not the tile of this log", path(tile))
		}
	}
	// Every entry, against its leaf hash; and for some of them the whole proof.
	step := tree.N/500 + 1
	for n := int64(0); n < tree.N; n++ {
		if n%(1<<height) != 0 {
			continue
		}
		width := tree.N - n
		if width > 1<<height {
			width = 1 << height
		}
		bundle := tlog.Tile{H: height, L: -1, N: n >> height, W: int(width)}
		data, err := os.ReadFile(filepath.Join(dir, path(bundle)))
		if err != nil {
			return err
		}
		for i := int64(0); i < width; i++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("%s is cut short", path(bundle))
			}
			size := int(binary.BigEndian.Uint16(data))
			record := data[2 : 2+size]
			data = data[2+size:]
			hash := tlog.RecordHash(record)
			stored, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, n+i)})
			if err != nil {
				return err
			}
			if stored[0] != hash {
				return fmt.Errorf("entry %d is not the one that was logged", n+i)
			}
			if (n+i)%step == 0 {
				proof, err := tlog.ProveRecord(tree.N, n+i, reader)
				if err != nil {
					return err
				}
				if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n+i, hash); err != nil {
					return err
				}
			}
		}
		if len(data) != 0 {
			return fmt.Errorf("%s has %d bytes too many", path(bundle), len(data))
		}
	}
	fmt.Printf("%d entries, root %v, %d cosignatures\n", tree.N, tree.Hash, cosigned)
	return nil
}

// proofs reads lines of fields, hashes in base64:
//
//	record SIZE ROOT INDEX LEAF [HASH...]
//	tree SIZE ROOT FIRST-SIZE FIRST-ROOT [HASH...]
func proofs() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	checked := 0
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			return fmt.Errorf("a line has %d fields", len(fields))
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return err
		}
		at, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return err
		}
		var hashes []tlog.Hash
		for _, field := range append([]string{fields[2], fields[4]}, fields[5:]...) {
			hash, err := tlog.ParseHash(field)
			if err != nil {
				return err
			}
			hashes = append(hashes, hash)
		}
		root, known, path := hashes[0], hashes[1], hashes[2:]
		if fields[0] == "record" {
			err = tlog.CheckRecord(path, size, root, at, known)
		} else {
			err = tlog.CheckTree(path, size, root, at, known)
		}
		if err != nil {
			return fmt.Errorf("%s proof of %d in %d: %v", fields[0], at, size, err)
		}
		checked++
	}
	fmt.Printf("%d proofs\n", checked)
	return lines.Err()
}

func write(dir, name string, count int64) error {
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, index := range indexes {
			hashes = append(hashes, stored[index])
		}
		return hashes, nil
	})
	var bundle []byte
	put := func(tile tlog.Tile, data []byte) error {
		file := filepath.Join(dir, path(tile))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o644)
	}
	for n := int64(0); n < count; n++ {
		record := []byte(fmt.Sprintf("record %d of %s", n, name))
		hashes, err := tlog.StoredHashes(n, record, reader)
		if err != nil {
			return err
		}
		stored = append(stored, hashes...)
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(record)))
		bundle = append(bundle, record...)
		if n%(1<<height) == 1<<height-1 || n == count-1 {
			tile := tlog.Tile{H: height, L: -1, N: n >> height, W: int(n%(1<<height)) + 1}
			if err := put(tile, bundle); err != nil {
				return err
			}
			bundle = nil
		}
	}
	for _, tile := range tilesOf(count) {
		data, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return err
		}
		if err := put(tile, data); err != nil {
			return err
		}
	}
	root, err := tlog.TreeHash(count, reader)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s\n%d\n%v\n", name, count, root)
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "checkpoint"), signed, 0o644); err != nil {
		return err
	}
	fmt.Println(vkey)
	return nil
}
