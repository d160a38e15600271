package datapath

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"golang.org/x/sys/unix"
)

const sources = "../../../bpf"

// sourceLines of the programs and their headers, by path below bpf/.
func sourceLines(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, pattern := range []string{"*.bpf.c", "lib/*.h"} {
		files, err := filepath.Glob(filepath.Join(sources, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources at %s: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(sources, file)
			out[name] = strings.Split(string(text), "\n")
		}
	}
	return out
}

// hubbleReasons says what each reason of ours is in Hubble's terms.
var hubbleReasons = map[string]flowpb.DropReason{
	"INVALID_SMAC": flowpb.DropReason_INVALID_SOURCE_MAC, "INVALID_SIP": flowpb.DropReason_INVALID_SOURCE_IP, "POLICY": flowpb.DropReason_POLICY_DENIED,
	"INVALID": flowpb.DropReason_INVALID_PACKET_DROPPED, "UNKNOWN_L4": flowpb.DropReason_UNKNOWN_L4_PROTOCOL,
	"UNSUPPORTED_L3": flowpb.DropReason_UNSUPPORTED_L3_PROTOCOL, "WRITE_ERROR": flowpb.DropReason_ERROR_WRITING_TO_PACKET,
	"UNKNOWN_ICMP6_TYPE": flowpb.DropReason_UNKNOWN_ICMPV6_TYPE, "NO_TUNNEL_KEY": flowpb.DropReason_ERROR_RETRIEVING_TUNNEL_KEY,
	"NO_LOCAL_ENDPOINT": flowpb.DropReason_NO_MATCHING_LOCAL_CONTAINER_FOUND, "CT_INSERT": flowpb.DropReason_CT_MAP_INSERTION_FAILED,
	"INVALID_EXTENSION": flowpb.DropReason_INVALID_IPV6_EXTENSION_HEADER, "FRAGMENTATION": flowpb.DropReason_IP_FRAGMENTATION_NOT_SUPPORTED,
	"NO_BACKEND": flowpb.DropReason_SERVICE_BACKEND_NOT_FOUND, "NO_TUNNEL_ENDPOINT": flowpb.DropReason_NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT,
	"EDT_HORIZON": flowpb.DropReason_REACHED_EDT_RATE_LIMITING_DROP_HORIZON, "NAT_NO_MAPPING": flowpb.DropReason_NO_MAPPING_FOR_NAT_MASQUERADE,
	"NAT_UNSUPPORTED_L4": flowpb.DropReason_UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE, "ENCAP_PROHIBITED": flowpb.DropReason_ENCAPSULATION_TRAFFIC_IS_PROHIBITED,
	"INVALID_IDENTITY": flowpb.DropReason_INVALID_IDENTITY, "UNKNOWN_SENDER": flowpb.DropReason_UNKNOWN_SENDER,
	"FRAG_NOT_FOUND": flowpb.DropReason_FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND, "NOT_IN_SOURCE_RANGE": flowpb.DropReason_DENIED_BY_LB_SRC_RANGE_CHECK,
	"PROXY_LOOKUP": flowpb.DropReason_SOCKET_LOOKUP_FAILED, "PROXY_ASSIGN": flowpb.DropReason_SOCKET_ASSIGN_FAILED,
	"POLICY_DENY": flowpb.DropReason_POLICY_DENY, "INVALID_VNI": flowpb.DropReason_INVALID_VNI, "RATE_LIMITED": flowpb.DropReason_DROP_RATE_LIMITED,
}

// Every reason is Hubble's, under Hubble's number, and is used; but for that of the kernel's own drops, for which Hubble has
// no number.
func TestDropReasonsAreHubbles(t *testing.T) {
	all := sourceLines(t)
	define := regexp.MustCompile(`^#define DROP_(\w+) (\d+)`)
	found := map[string]bool{}
	for _, line := range all["lib/types.h"] {
		m := define.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := m[1]
		number, _ := strconv.Atoi(m[2])
		found[name] = true
		want, ok := hubbleReasons[name]
		if _, known := flowpb.DropReason_name[int32(number)]; name == "KERNEL" {
			if number != DropKernel || known {
				t.Errorf("the kernel's own drops have number %d here and %d in C; Hubble has it: %v", DropKernel, number, known)
			}
		} else if !ok || int32(want) != int32(number) {
			t.Errorf("DROP_%s is %d; in Hubble's terms %s, %d", name, number, want, want)
		}
		used := regexp.MustCompile(`\bDROP_` + name + `\b`)
		uses := 0
		for _, lines := range all {
			for _, l := range lines {
				if used.MatchString(l) && !define.MatchString(l) {
					uses++
				}
			}
		}
		if uses == 0 {
			t.Errorf("nobody drops for the reason DROP_%s", name)
		}
	}
	for name := range hubbleReasons {
		if !found[name] {
			t.Errorf("lib/types.h has no DROP_%s", name)
		}
	}
}

// uncounted are the lines that drop a packet without drop(), and why they may.
var uncounted = map[string]string{
	"return prefiltered(ctx) ? XDP_DROP : XDP_PASS;":        "counted by refused network, told of by sample (lib/prefilter.h)",
	"return prefiltered(ctx) ? XDP_DROP : serve_here(ctx);": "the same",
	"return err < 0 ? TC_ACT_SHOT : err;":                   "after drop(), when the answer about it could not be made",
	"return TC_ACT_SHOT;":                                   "of drop_at() itself",
}

// Every place where a packet ends goes through drop(), which counts it and tells of it; but for checks of pointers that the
// verifier wants and that never fail.
func TestEveryDropHasAReason(t *testing.T) {
	ends := regexp.MustCompile(`\b(TC_ACT_SHOT|XDP_DROP|XDP_ABORTED)\b`)
	null := regexp.MustCompile(`^if \(!\w+( \|\| !\w+)*\)$`)
	dropped := regexp.MustCompile(`^drop\(ctx, p, r, \w+\);$`)
	sites, excused := 0, map[string]int{}
	for name, lines := range sourceLines(t) {
		for i, line := range lines {
			line = strings.TrimSpace(line)
			if regexp.MustCompile(`\bdrop\(`).MatchString(line) && !strings.HasPrefix(line, "#define") {
				sites++
			}
			if !ends.MatchString(line) || strings.HasPrefix(line, "*") || strings.HasPrefix(line, "/*") {
				continue
			}
			before := strings.TrimSpace(lines[i-1])
			if null.MatchString(before) || dropped.MatchString(before) {
				continue
			}
			_, ok := uncounted[line]
			if line == "return TC_ACT_SHOT;" {
				ok = name == "lib/events.h"
			}
			if !ok {
				t.Errorf("%s:%d drops without a reason: %s", name, i+1, line)
			}
			excused[line]++
		}
	}
	t.Logf("%d calls of drop()", sites)
	if sites < 50 {
		t.Errorf("%d calls of drop() were found: this test looks for the wrong thing", sites)
	}
	for line := range uncounted {
		if excused[line] == 0 {
			t.Errorf("no source has the line %q any more", line)
		}
	}
}

// A drop names its file: each program has a number of its own, and so has each header that drops by itself.
func TestFilesOfDrops(t *testing.T) {
	number := regexp.MustCompile(`^#define FILE_NUMBER (\d+)$`)
	header := regexp.MustCompile(`__builtin_strcmp\(__FILE_NAME__, "([a-z_]+\.h)"\)\s+\? (\d+)`)
	have := map[uint8]string{}
	all := sourceLines(t)
	note := func(name, text string) {
		n, _ := strconv.Atoi(text)
		if other, taken := have[uint8(n)]; taken {
			t.Errorf("%s and %s have the same number %d", name, other, n)
		}
		have[uint8(n)] = name
	}
	named := map[string]bool{}
	for _, line := range all["lib/events.h"] {
		for _, m := range header.FindAllStringSubmatch(line, -1) {
			note("lib/"+m[1], m[2])
			named["lib/"+m[1]] = true
		}
	}
	for name, lines := range all {
		for _, line := range lines {
			// lib/steps.h has a number for a program that has none.
			if m := number.FindStringSubmatch(line); m != nil && m[1] != "0" {
				note(name, m[1])
			}
			if strings.HasPrefix(name, "lib/") && regexp.MustCompile(`\bdrop\(`).MatchString(line) && !strings.HasPrefix(line, "#define") && !named[name] {
				t.Errorf("%s drops and has no number in DROPPING_FILE: %s", name, strings.TrimSpace(line))
			}
		}
	}
	if len(have) != len(sourceFiles) {
		t.Errorf("C has the files %v, Go %v", have, sourceFiles)
	}
	for n, name := range have {
		if sourceFiles[n] != name {
			t.Errorf("number %d is %s in C and %q in Go", n, name, sourceFiles[n])
		}
	}
}

// Whatever a program is given: what it drops is counted once, for one reason, and told of once.
func TestDropsOfAnyPacketAreCountedAndTold(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := rand.New(rand.NewPCG(seed, seed))
	seen := map[uint8]int{}
	var drops, packets int
	for _, routing := range []RoutingMode{RoutingTunnel, RoutingNative} {
		r := newNATRig(t, routing, func(c *Config) {
			c.HostFirewall = true
			c.bandwidth = BandwidthPoliced
		})
		host := Host{PolicyIngress: true, PolicyEgress: true}
		r.host = &host
		r.must(r.judgeAgain(HostEndpoint))
		r.limit(r.endpoint(2, podB, macB, func(e *Endpoint) { e.PolicyIngress, e.PolicyEgress = true, true }), 1000, 1000)
		r.door(unix.IPPROTO_TCP)
		r.must(r.objects.maps["ipcache"].Put(prefixToKey(r.config.NativeRoutingCIDR), ipcacheValueLayout{Identity: 2000, Tunnel: [4]byte{192, 0, 2, 2}}))
		addresses := []string{podA, podB, "10.77.1.99", "10.77.2.5", nodeSource, someServer, "10.96.0.10", podA6, server6, node6, "fd00:77:1::99", "ff02::1"}
		before := r.dropsByReason()
		for range 400 {
			data := anyFrame(d, addresses)
			program := []string{"from_pod", "from_pod", "to_pod", "from_netdev", "to_netdev", "from_overlay", "from_host"}[d.IntN(7)]
			verdict, _ := r.run(program, data)
			packets++
			told := map[uint8]uint64{}
			r.ring(func(e Event) {
				if e.Type == EventDrop {
					told[e.SubType]++
					if e.File == 0 || e.Line == 0 {
						t.Errorf("a drop for reason %d does not say where", e.SubType)
					}
				}
			})
			var counted uint64
			after := r.dropsByReason()
			for reason, now := range after {
				n := now[0] - before[reason][0]
				if n == 0 {
					continue
				}
				counted += n
				seen[reason] += int(n)
				held := now[1] - before[reason][1]
				if reason != 139 && told[reason]+held < n {
					t.Errorf("%s, %x: %d drops for reason %d, %d events, %d held back", program, data, n, reason, told[reason], held)
				}
			}
			before = after
			switch {
			case verdict == verdictShot && counted != 1:
				t.Errorf("%s dropped %x and counted %d drops", program, data, counted)
			case verdict != verdictShot && counted > 1, verdict != verdictShot && counted == 1 && verdict != verdictRedirect:
				t.Errorf("%s gave verdict %d for %x and counted %d drops", program, int32(verdict), data, counted)
			}
			if verdict == verdictShot {
				drops++
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d of %d packets were dropped, by reason %v", drops, packets, seen)
	if drops < packets/10 || len(seen) < 6 {
		t.Errorf("only %d of %d packets were dropped, for the reasons %v: the packets are too tame", drops, packets, seen)
	}
}

// dropsByReason counts drops, and events of theirs that were held back.
func (r *rig) dropsByReason() map[uint8][2]uint64 {
	counts, err := r.Drops()
	r.must(err)
	out := map[uint8][2]uint64{}
	for _, c := range counts {
		if !c.Forwarded {
			out[c.Reason] = [2]uint64{out[c.Reason][0] + c.Packets, out[c.Reason][1] + c.Suppressed}
		}
	}
	for reason := range out {
		alone, err := r.Drops(reason)
		r.must(err)
		if want := slices.DeleteFunc(slices.Clone(counts), func(c DropCount) bool { return c.Reason != reason }); !slices.Equal(alone, want) {
			r.t.Errorf("reason %d alone: %v, among all: %v", reason, alone, want)
		}
	}
	return out
}

// anyFrame is a packet that may be whole, wrong or nonsense.
func anyFrame(d *rand.Rand, addresses []string) []byte {
	pick := func(family bool) string {
		fit := slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return strings.Contains(a, ":") != family })
		return fit[d.IntN(len(fit))]
	}
	v6 := d.IntN(3) == 0
	f := frame{mac: [][6]byte{macA, macB, {}}[d.IntN(3)], source: pick(v6), destination: pick(v6), sourcePort: uint16(d.UintN(1 << 16)),
		destPort: []uint16{80, 30080, 8472, uint16(d.UintN(1 << 16))}[d.IntN(4)], flags: []uint8{syn, ack, syn | ack, rst}[d.IntN(4)], icmpType: uint8(d.UintN(256)),
		payload: make([]byte, d.IntN(1500)), protocol: []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_GRE}[d.IntN(6)]}
	if v6 && d.IntN(2) == 0 {
		f.firstExtension, f.extensions = []uint8{0, 43, 44, 51, 60}[d.IntN(5)], []byte{f.protocol, uint8(d.UintN(3)), uint8(d.UintN(256)), uint8(d.UintN(256)), 0, 0, 0, 1}
	}
	b := f.bytes()
	if d.IntN(4) == 0 {
		// The kernel's test runner takes no packet without its IP header.
		least := 34
		if v6 {
			least = 54
		}
		b = b[:least+d.IntN(len(b)-least+1)]
	}
	for range d.IntN(3) {
		b[14+d.IntN(min(len(b), 80)-14)] ^= 1 << d.UintN(8)
	}
	return b
}
