package facts

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is one rule of nftables, also of iptables where that is kept in nftables.
type Rule struct {
	Table string `json:"table"`
	Chain string `json:"chain"`
	Text  string `json:"text"`
	// Owner is fairlead, kube-proxy, kubelet or other: by its table's or chain's name.
	Owner string `json:"owner"`
}

// ServiceChains counts chains of kube-proxy.
type ServiceChains struct {
	// NFTables and Legacy are how many chains there are that only kube-proxy makes: KUBE-SVC, KUBE-SEP, KUBE-NODEPORTS and
	// the like, or any in its own tables. KUBE-MARK-MASQ and KUBE-POSTROUTING are a kubelet's as well.
	NFTables int `json:"nftables"`
	Legacy   int `json:"legacy"`
}

var families = map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	nftables.TableFamilyBridge: "bridge", nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev"}

func readRules() ([]Rule, error) {
	connection, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := connection.ListChains()
	if err != nil {
		return nil, err
	}
	var out []Rule
	for _, chain := range chains {
		table := families[chain.Table.Family] + " " + chain.Table.Name
		rules, err := connection.GetRules(chain.Table, chain)
		if err != nil {
			return out, fmt.Errorf("chain %s %s: %w", table, chain.Name, err)
		}
		// A chain without rules is a trace as well.
		if len(rules) == 0 {
			out = append(out, Rule{Table: table, Chain: chain.Name, Text: "(empty)", Owner: owner(table, chain.Name)})
		}
		for _, r := range rules {
			out = append(out, Rule{Table: table, Chain: chain.Name, Text: textOf(r.Exprs), Owner: owner(table, chain.Name)})
		}
	}
	return out, nil
}

func owner(table, chain string) string {
	switch {
	case strings.Contains(table, "fairlead"):
		return "fairlead"
	case isServiceChain(chain) || strings.HasSuffix(table, " kube-proxy"):
		return "kube-proxy"
	case strings.HasPrefix(chain, "KUBE-"):
		return "kubelet"
	default:
		return "other"
	}
}

func isServiceChain(chain string) bool {
	for _, prefix := range []string{"KUBE-SVC-", "KUBE-SEP-", "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SVL-",
		"KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// sorted takes the rules that translate or spare connection tracking out of all rules, and counts kube-proxy's chains.
func sorted(all []Rule) (translating, sparing []Rule, services ServiceChains) {
	translating, sparing = []Rule{}, []Rule{}
	chains := map[string]bool{}
	for _, r := range all {
		if r.Owner == "kube-proxy" {
			chains[r.Table+" "+r.Chain] = true
		}
		if strings.Contains(r.Text, "notrack") {
			sparing = append(sparing, r)
		}
		if r.Owner == "fairlead" || strings.HasSuffix(r.Table, " nat") || r.Owner == "kube-proxy" {
			translating = append(translating, r)
		}
	}
	services.NFTables = len(chains)
	return translating, sparing, services
}

// textOf writes a rule much as nft does, as far as the kinds of expressions that network plugins use.
func textOf(expressions []expr.Any) string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	field := ""
	for _, e := range expressions {
		switch e := e.(type) {
		case *expr.Meta:
			field = metaName(e.Key)
			if e.SourceRegister {
				add("meta %s set", field)
			}
		case *expr.Payload:
			field = payloadName(e)
		case *expr.Ct:
			field = "ct"
		case *expr.Fib:
			field = "fib"
		case *expr.Cmp:
			operator := "=="
			if e.Op == expr.CmpOpNeq {
				operator = "!="
			}
			add("%s %s %s", field, operator, value(field, e.Data))
		case *expr.Lookup:
			operator := ""
			if e.Invert {
				operator = "!= "
			}
			add("%s %s@%s", field, operator, e.SetName)
		case *expr.Bitwise:
			field += "&" + value(field, e.Mask)
			if !strings.Contains(field, "addr") {
				continue
			}
			// A mask of leading ones is a length.
			if ones, bits := net.IPMask(e.Mask).Size(); bits > 0 {
				name, _, _ := strings.Cut(field, "&")
				field = fmt.Sprintf("%s&/%d", name, ones)
			}
		case *expr.Counter:
			add("counter packets %d bytes %d", e.Packets, e.Bytes)
		case *expr.Masq:
			add("masquerade")
		case *expr.NAT:
			add("%s", map[expr.NATType]string{expr.NATTypeSourceNAT: "snat", expr.NATTypeDestNAT: "dnat"}[e.Type])
		case *expr.Notrack:
			add("notrack")
		case *expr.Verdict:
			add("%s", verdict(e))
		case *expr.Match:
			add("match %s", e.Name)
		case *expr.Target:
			// The raw table of iptables-nft spells it as a target.
			if e.Name == "CT" || e.Name == "NOTRACK" {
				add("notrack")
			} else {
				add("target %s", e.Name)
			}
		}
	}
	return strings.Join(words, " ")
}

func verdict(v *expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictGoto:
		return "goto " + v.Chain
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	default:
		return fmt.Sprintf("verdict %d", v.Kind)
	}
}

func metaName(key expr.MetaKey) string {
	names := map[expr.MetaKey]string{expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyIIF: "iif", expr.MetaKeyOIF: "oif",
		expr.MetaKeyMARK: "mark", expr.MetaKeyL4PROTO: "l4proto", expr.MetaKeyNFPROTO: "nfproto", expr.MetaKeyPROTOCOL: "protocol"}
	if name, ok := names[key]; ok {
		return name
	}
	return fmt.Sprintf("meta(%d)", key)
}

func payloadName(p *expr.Payload) string {
	if p.Base == expr.PayloadBaseNetworkHeader {
		switch {
		case p.Offset == 12 && p.Len == 4:
			return "ip saddr"
		case p.Offset == 16 && p.Len == 4:
			return "ip daddr"
		case p.Offset == 8 && p.Len == 16:
			return "ip6 saddr"
		case p.Offset == 24 && p.Len == 16:
			return "ip6 daddr"
		}
	}
	if p.Base == expr.PayloadBaseTransportHeader && p.Len == 2 {
		return map[uint32]string{0: "sport", 2: "dport"}[p.Offset]
	}
	return fmt.Sprintf("payload(%d,%d,%d)", p.Base, p.Offset, p.Len)
}

func value(field string, data []byte) string {
	field, _, _ = strings.Cut(field, "&")
	switch {
	case strings.HasSuffix(field, "addr"):
		if address, ok := netip.AddrFromSlice(data); ok {
			return address.String()
		}
	case strings.HasSuffix(field, "name"):
		return string(bytes.TrimRight(data, "\x00"))
	case strings.HasSuffix(field, "port") && len(data) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(data))
	case len(data) == 4:
		return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(data))
	case len(data) == 1:
		return fmt.Sprint(data[0])
	}
	return fmt.Sprintf("%x", data)
}

// Of linux/netfilter_ipv4/ip_tables.h.
const (
	iptGetInfo    = 64
	iptGetEntries = 65
	tableName     = 32
)

// legacyServiceChains counts kube-proxy's chains in the nat table of the old iptables. A table that nobody has used is
// not asked for: asking would make it.
func legacyServiceChains() (int, error) {
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if errors.Is(err, os.ErrNotExist) || !strings.Contains(string(names), "nat") {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	// struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size.
	info := make([]byte, tableName+13*4)
	copy(info, "nat")
	if err := getsockopt(socket, iptGetInfo, info); err != nil {
		return 0, err
	}
	size := binary.NativeEndian.Uint32(info[tableName+12*4:])
	// struct ipt_get_entries: name, size, (aligned) entries.
	entries := make([]byte, tableName+8+int(size))
	copy(entries, "nat")
	binary.NativeEndian.PutUint32(entries[tableName:], size)
	if err := getsockopt(socket, iptGetEntries, entries); err != nil {
		return 0, err
	}
	return countChains(entries), nil
}

// countChains counts the names of kube-proxy's chains: each chain begins with an error target that holds its name.
func countChains(entries []byte) int {
	found := map[string]bool{}
	for at := bytes.Index(entries, []byte("KUBE-")); at >= 0; {
		end := bytes.IndexByte(entries[at:], 0)
		if end < 0 {
			break
		}
		if name := string(entries[at : at+end]); isServiceChain(name) {
			found[name] = true
		}
		next := bytes.Index(entries[at+end:], []byte("KUBE-"))
		if next < 0 {
			break
		}
		at += end + next
	}
	return len(found)
}

func getsockopt(socket, option int, buffer []byte) error {
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_IP, uintptr(option), uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return fmt.Errorf("getsockopt %d: %w", option, errno)
	}
	return nil
}
