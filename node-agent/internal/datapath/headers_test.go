package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// runsPrograms are what a test file has that gives packets to programs by BPF_PROG_TEST_RUN, or looks into the objects.
var runsPrograms = regexp.MustCompile(`\bnew\w*Rig\w*\(|newPrefilter\w*\(|\.Run\(|\.Explain\(|newSpec\(|\bbattery\(`)

// Every program and every header has tests in the table of bpf/README.md, which are there, and of which those of the second
// column run the programs; and nothing else is in the table.
func TestEveryHeaderHasATest(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	fileOf, textOf := map[string]string{}, map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		textOf[file] = string(text)
		for _, m := range function.FindAllStringSubmatch(string(text), -1) {
			fileOf[m[1]] = file
		}
	}
	readme, err := os.ReadFile(filepath.Join(sources, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "\n## Tests\n")
	if !found {
		t.Fatal("bpf/README.md has no section Tests")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.*) \\| (.*) \\|$")
	name := regexp.MustCompile("`(Test\\w+)`")
	rows := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		source := m[1]
		rows[source] = true
		inTestMode, byTraffic := name.FindAllStringSubmatch(m[2], -1), name.FindAllStringSubmatch(m[3], -1)
		// What cannot be run this way says so in words.
		if len(inTestMode) == 0 && (len(byTraffic) == 0 || !strings.HasPrefix(m[2], "not possible: ")) {
			t.Errorf("%s has no test by BPF_PROG_TEST_RUN, and no reason why", source)
		}
		for _, test := range slices.Concat(inTestMode, byTraffic) {
			if fileOf[test[1]] == "" {
				t.Errorf("%s names %s, which is not there", source, test[1])
			}
		}
		for _, test := range inTestMode {
			if file := fileOf[test[1]]; file != "" && !runsPrograms.MatchString(textOf[file]) {
				t.Errorf("%s names %s as a test that runs programs; %s does not", source, test[1], file)
			}
		}
	}
	for source := range sourceLines(t) {
		if !rows[source] {
			t.Errorf("%s has no row in bpf/README.md", source)
		}
		delete(rows, source)
	}
	for source := range rows {
		t.Errorf("bpf/README.md has a row of %s, which is not there", source)
	}
}

// marked runs a program on a packet with a mark, and gives the mark that it has afterwards.
func (r *rig) marked(program string, data []byte, mark uint32) (verdict, after uint32) {
	r.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	in, out := skb{Ifindex: r.ifindex, Mark: mark}, skb{}
	verdict, err := r.program(program).Run(&ebpf.RunOptions{Data: data, DataOut: make([]byte, len(data)+256), Context: in, ContextOut: &out})
	r.must(err)
	return verdict, out.Mark
}

// What a policy line gives to a proxy gets the mark with the proxy's port; a datagram only while the proxy listens.
func TestPacketsForProxies(t *testing.T) {
	r := newRig(t, RoutingNative, func(c *Config) { c.L7Proxy, c.hostIfindex = true, 1 })
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.PolicyEgress = true })
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	r.must(err)
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		r.must(r.ApplyPolicy(context.Background(), []PolicyEntry{{PolicyKey{Endpoint: 1, Direction: Egress, Protocol: protocol, Port: 80, PortPrefix: 16}, PolicyValue{ProxyPort: port}}}, nil))
	}
	f := frame{mac: macA, source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_TCP, sourcePort: 5000, destPort: 80, flags: syn}
	wanted := uint32(markToProxy) | uint32(port)<<16
	if verdict, mark := r.marked("from_pod", f.bytes(), 0); verdict != verdictRedirect || mark != wanted {
		t.Errorf("a connection: verdict %d, mark %#x, want %#x", int32(verdict), mark, wanted)
	}
	f.flags = ack
	if verdict, mark := r.marked("from_pod", f.bytes(), 0); verdict != verdictRedirect || mark&markMask != markToProxy {
		t.Errorf("its next segment: verdict %d, mark %#x", int32(verdict), mark)
	}
	datagram := f
	datagram.protocol, datagram.flags = unix.IPPROTO_UDP, 0
	if verdict, mark := r.marked("from_pod", datagram.bytes(), 0); verdict == verdictShot || mark != 0 {
		t.Errorf("a datagram while nobody listens: verdict %d, mark %#x", int32(verdict), mark)
	}
	packets, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	r.must(err)
	defer packets.Close()
	datagram.sourcePort++
	if verdict, mark := r.marked("from_pod", datagram.bytes(), 0); verdict != verdictRedirect || mark != wanted {
		t.Errorf("a datagram while the proxy listens: verdict %d, mark %#x", int32(verdict), mark)
	}
}

// to_proxy gives what opens a connection to the listener that the mark names, and leaves the rest to the stack.
func TestToProxy(t *testing.T) {
	r := newRig(t, RoutingNative, func(c *Config) { c.L7Proxy, c.hostIfindex = true, 1 })
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	r.must(err)
	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	opens := frame{source: "10.77.1.11", destination: "203.0.113.9", protocol: unix.IPPROTO_TCP, sourcePort: 5000, destPort: 80, flags: syn}
	goesOn := opens
	goesOn.flags = ack
	for _, test := range []struct {
		what    string
		frame   frame
		mark    uint32
		verdict uint32
	}{
		{"what is not for a proxy", opens, 0, verdictUnspec},
		{"what a proxy sent", opens, 0xa00, verdictUnspec},
		{"what goes on", goesOn, markToProxy | port<<16, verdictOK},
		{"what may not open", opens, markToProxy, verdictOK},
	} {
		if verdict, _ := r.marked("to_proxy", test.frame.bytes(), test.mark); verdict != test.verdict {
			t.Errorf("%s: verdict %d, want %d", test.what, int32(verdict), int32(test.verdict))
		}
	}
	// Assigning is what the test runner's packets are refused, being at no ingress: that it comes to it shows that the
	// listener was found.
	if verdict, _ := r.marked("to_proxy", opens.bytes(), markToProxy|port<<16); verdict != verdictOK && (verdict != verdictShot || r.counters()[179] != 1) {
		t.Errorf("what opens: verdict %d, counters %v", int32(verdict), r.counters())
	}
	listener.Close()
	if verdict, _ := r.marked("to_proxy", opens.bytes(), markToProxy|port<<16); verdict != verdictShot || r.counters()[178] != 1 {
		t.Errorf("what opens while nobody listens: verdict %d, counters %v", int32(verdict), r.counters())
	}
	broken := opens.bytes()
	broken[14] = 0x41
	if verdict, _ := r.marked("to_proxy", broken, markToProxy|port<<16); verdict != verdictShot || r.counters()[134] != 1 {
		t.Errorf("no packet at all: verdict %d, counters %v", int32(verdict), r.counters())
	}
}

// A refusal is a packet that its receiver takes: right checksums, what it quotes, and the acknowledgement of what it resets.
func TestRefusalsAreWhole(t *testing.T) {
	r := newRig(t, RoutingNative)
	r.endpoint(1, "10.77.1.11", macA, func(e *Endpoint) { e.Addresses = append(e.Addresses, netip.MustParseAddr("fd00:10:77:1::11")) })
	for i, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		for j, front := range []string{"10.96.0.10", "fd00:10:96::10"} {
			r.must(r.UpsertService(context.Background(), Service{ServiceID: ServiceID{Name: fmt.Sprint(i, j), Protocol: protocol, V6: j == 1},
				Frontends: []Frontend{{Address: netip.MustParseAddr(front), Port: 80, Protocol: protocol}}}))
		}
	}
	for _, test := range []struct {
		source, front string
		protocol      uint8
	}{
		{"10.77.1.11", "10.96.0.10", unix.IPPROTO_TCP}, {"fd00:10:77:1::11", "fd00:10:96::10", unix.IPPROTO_TCP},
		{"10.77.1.11", "10.96.0.10", unix.IPPROTO_UDP}, {"fd00:10:77:1::11", "fd00:10:96::10", unix.IPPROTO_UDP},
	} {
		asked := flow{source: test.source, destination: test.front, protocol: test.protocol, sourcePort: 5000, port: 80, flags: syn}
		data := asked.frame()
		l4 := 34
		if asked.v6() {
			l4 = 54
		}
		copy(data[6:], macA[:])
		before := r.counters()[158]
		verdict, out := r.run("from_pod", data)
		if verdict != verdictRedirect || r.counters()[158] != before+1 {
			t.Errorf("%+v: verdict %d, counters %v", asked, int32(verdict), r.counters())
			continue
		}
		got := dissect(t, out[14:])
		if got.source != test.front || got.destination != test.source || [6]byte(out[:6]) != macA {
			t.Errorf("%+v: the answer is %+v to %x", asked, got, out[:6])
		}
		if test.protocol == unix.IPPROTO_TCP {
			if got.sourcePort != 80 || got.port != 5000 || out[l4+13] != rst|ack || binary.BigEndian.Uint32(out[l4+8:]) != binary.BigEndian.Uint32(data[l4+4:])+1 {
				t.Errorf("%+v: no reset: % x", asked, out[l4:])
			}
		} else if q := got.quoted; q == nil || q.source != test.source || q.destination != test.front || q.sourcePort != 5000 || q.port != 80 {
			t.Errorf("%+v: it quotes %+v", asked, q)
		}
	}
}
