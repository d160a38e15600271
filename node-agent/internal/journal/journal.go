// Package journal records every change that the agent makes on a node, so that an uninstall can undo all of them.
package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one change.
type Entry struct {
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	// Kind is link, route, rule, nftables, sysctl, file, pin, program or cgroup.
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	// Before and After are the values; empty means that there was, or is, nothing.
	Before string `json:"before"`
	After  string `json:"after"`
	// Undo is the command that undoes it, for people; Replay undoes by kind.
	Undo string `json:"undo"`
}

// ahead is the space that is kept for what is recorded next, in bytes: some fifty changes. On a disk that is full by then they
// are recorded all the same.
const ahead = 16 << 10

// Journal is an append-only file of one JSON object per line. All methods are safe for concurrent use.
type Journal struct {
	mu       sync.Mutex
	path     string
	file     *os.File
	sequence uint64
	// latest holds the entry in force per kind and subject: a restarted agent reports the same changes again.
	latest map[[2]string]Entry
}

// Open opens or creates the file. A last line that was cut off by a crash is dropped: it was written before the change.
func Open(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the journal's directory: %w", err)
	}
	entries, size, err := read(path)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	if err := errors.Join(shorten(file, size), seek(file, size)); err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j := &Journal{path: path, file: file, latest: map[[2]string]Entry{}}
	for _, e := range entries {
		j.sequence = max(j.sequence, e.Sequence)
		j.latest[[2]string{e.Kind, e.Subject}] = e
	}
	// On a full disk the space of the former run is still there; Reserve says if not.
	_ = j.Reserve()
	return j, nil
}

// shorten cuts off half a line. Of a file that ends where it should nothing is touched: that would give up what is kept ahead.
func shorten(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() == size {
		return err
	}
	return f.Truncate(size)
}

// Reserve keeps space on the disk for what is recorded next. An error says that there is less; file systems that cannot keep
// any count as if they had.
func (j *Journal) Reserve() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.reserve()
}

func (j *Journal) reserve() error {
	end, err := j.file.Seek(0, io.SeekEnd)
	if err == nil {
		err = unix.Fallocate(int(j.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, ahead)
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("keeping space for the journal: %w", err)
	}
	return nil
}

func seek(f *os.File, to int64) error {
	_, err := f.Seek(to, io.SeekStart)
	return err
}

// Read lists the entries of a file in order; none where there is no file.
func Read(path string) ([]Entry, error) {
	entries, _, err := read(path)
	return entries, err
}

// read also gives the offset after the last whole line.
func read(path string) ([]Entry, int64, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the journal: %w", err)
	}
	defer file.Close()
	var entries []Entry
	var size int64
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return entries, size, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading the journal: %w", err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, fmt.Errorf("the journal %s is damaged after entry %d: %w", path, len(entries), err)
		}
		entries = append(entries, e)
		size += int64(len(line))
	}
}

// Record appends a change and syncs it to disk; it is called before the change is made, which is not made where it fails. A change that is recorded
// already with the same value is not recorded again, and the first value that was found is kept as Before.
func (j *Journal) Record(kind, subject, before, after, undo string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := [2]string{kind, subject}
	if old, ok := j.latest[key]; ok {
		if old.After == after && old.Undo == undo {
			return nil
		}
		before = old.Before
	}
	j.sequence++
	e := Entry{Sequence: j.sequence, Time: time.Now().UTC(), Kind: kind, Subject: subject, Before: before, After: after, Undo: undo}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("recording in the journal: %w", err)
	}
	start, err := j.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("recording in the journal: %w", err)
	}
	_, err = j.file.Write(append(line, '\n'))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// Half a line with a whole one after it would make the journal unreadable.
		j.sequence--
		return fmt.Errorf("recording in the journal: %w", errors.Join(err, shorten(j.file, start), seek(j.file, start)))
	}
	j.latest[key] = e
	// What is kept ahead moves on; where there is no room for that, what is left of it stays, and Reserve says so.
	_ = j.reserve()
	return nil
}

// Entries lists everything recorded, oldest first.
func (j *Journal) Entries() ([]Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Read(j.path)
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }
