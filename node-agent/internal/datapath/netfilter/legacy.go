package netfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tables of iptables before nftables, which the kernel keeps beside those of nftables and which no nftables program shows.
// They are only read: include/uapi/linux/netfilter_ipv4/ip_tables.h and its twin of version 6.
const (
	legacyGetInfo    = 64
	legacyGetEntries = 65
	legacyNameLength = 32
	// hookForward is NF_INET_FORWARD of five hooks.
	hookForward, hooks = 2, 5
	// verdictDrop is -NF_DROP-1, as a standard target has it.
	verdictDrop = -1
)

type legacyFamily struct {
	program, names    string
	domain, level     int
	targetOffsetField int
}

var legacyFamilies = []legacyFamily{
	{"iptables-legacy", "ip_tables_names", unix.AF_INET, unix.SOL_IP, 88},
	{"ip6tables-legacy", "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 140},
}

// legacyInfo is struct ipt_getinfo, and ip6t_getinfo alike.
type legacyInfo struct {
	Name                 [legacyNameLength]byte
	ValidHooks           uint32
	HookEntry, Underflow [hooks]uint32
	Entries, Size        uint32
}

// LegacyForwardDrops names FORWARD chains of iptables-legacy that drop by default, in the calling thread's network namespace.
// A table that is not there is not made by looking.
func LegacyForwardDrops() []string {
	var out []string
	for _, f := range legacyFamilies {
		names, err := os.ReadFile("/proc/thread-self/net/" + f.names)
		if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		policy, err := f.forwardPolicy()
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("%s filter FORWARD (its policy could not be read: %v)", f.program, err))
		case policy == verdictDrop:
			out = append(out, f.program+" filter FORWARD")
		}
	}
	return out
}

func (f legacyFamily) forwardPolicy() (int32, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("opening a socket to ask: %w", err)
	}
	defer unix.Close(fd)
	ask := func(option int, answer []byte) error {
		length := uint32(len(answer))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(f.level), uintptr(option),
			uintptr(unsafe.Pointer(&answer[0])), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
			return errno
		}
		return nil
	}
	raw := make([]byte, binary.Size(legacyInfo{}))
	copy(raw, "filter")
	if err := ask(legacyGetInfo, raw); err != nil {
		return 0, fmt.Errorf("asking for the table: %w", err)
	}
	var info legacyInfo
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &info); err != nil {
		return 0, err
	}
	// struct ipt_get_entries: the name, the size, padding, and then the entries.
	const before = legacyNameLength + 8
	all := make([]byte, before+int(info.Size))
	copy(all, "filter")
	binary.NativeEndian.PutUint32(all[legacyNameLength:], info.Size)
	if err := ask(legacyGetEntries, all); err != nil {
		return 0, fmt.Errorf("reading the table: %w", err)
	}
	// The policy is the last entry of the chain: a standard target, whose verdict follows its head of 32 bytes.
	at := before + int(info.Underflow[hookForward])
	if at+f.targetOffsetField+2 > len(all) {
		return 0, fmt.Errorf("the table ends before its policy")
	}
	at += int(binary.NativeEndian.Uint16(all[at+f.targetOffsetField:])) + 32
	if at+4 > len(all) {
		return 0, fmt.Errorf("the table ends before its policy's verdict")
	}
	return int32(binary.NativeEndian.Uint32(all[at:])), nil
}
