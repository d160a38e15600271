package datapath

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// verifierBudget leaves room below the kernel's million for kernels that tell fewer states apart.
const verifierBudget = 250_000

var processed = regexp.MustCompile(`processed (\d+) insns`)

// What the verifier has to do with each program, which is most of an agent's start; and the deepest stack, of which a
// program may use 512 bytes in all.
func TestVerifierEffort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads programs into the kernel")
	}
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Skipf("cannot mount a bpf file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	config := rigConfig(RoutingTunnel)
	config.xdpPrograms = []string{xdpServices, xdpPrefilter, xdpBoth}
	s, err := newSpec(config, 1, 1450, everyAbility())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"xdp_netdev"}, hookObjects...) {
		c := s.collections[name].Copy()
		for _, m := range c.Maps {
			m.Pinning, m.MaxEntries = ebpf.PinNone, min(m.MaxEntries, 4096)
		}
		loaded, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{
			Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats, LogSizeStart: 1 << 20},
		})
		if err != nil {
			t.Errorf("%s: %+v", name, err)
			continue
		}
		for program, p := range loaded.Programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			effort, _ := info.VerifiedInstructions()
			size, _ := info.TranslatedSize()
			depth := stackDepth(p.VerifierLog)
			t.Logf("%-14s %7d instructions verified, %5d in the program, stack %s", program, effort, size/8, depth)
			if effort == 0 && !processed.MatchString(p.VerifierLog) {
				t.Errorf("%s: the kernel does not tell what it verified", program)
			}
			if effort > verifierBudget {
				t.Errorf("%s: %d instructions to verify, the budget is %d", program, effort, verifierBudget)
			}
		}
		loaded.Close()
	}
}

// Every program loads in every configuration that leads to other code, for traffic and for dry runs: each value of each
// setting occurs, and each pair of routing mode and kind of run.
func TestEveryConfigurationLoads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it loads programs into the kernel")
	}
	for name, c := range map[string]struct {
		routing                   RoutingMode
		services, aggregate, able bool
		dry                       bool
	}{
		"tunnel":                       {RoutingTunnel, true, true, true, false},
		"tunnel, bare":                 {RoutingTunnel, false, false, false, false},
		"native, each packet reported": {RoutingNative, true, false, true, false},
		"native, bare":                 {RoutingNative, false, true, false, false},
		"tunnel, dry":                  {RoutingTunnel, true, false, true, true},
		"native, dry":                  {RoutingNative, true, true, false, true},
	} {
		config := rigConfig(c.routing)
		config.KubeProxyReplacement, config.MonitorAggregation, config.HostFirewall = c.services, c.aggregate, c.services
		var has abilities
		if c.able {
			has = everyAbility()
		}
		makeSpec := func() (*spec, error) {
			return newSpec(config, 1, 1450, has)
		}
		var o *objects
		var err error
		if c.dry {
			o, err = loadDryRun(makeSpec, map[string]*ebpf.Map{})
		} else {
			var s *spec
			if s, err = makeSpec(); err == nil {
				for _, collection := range s.collections {
					for _, m := range collection.Maps {
						m.MaxEntries = min(m.MaxEntries, 4096)
					}
				}
				var programs map[string]*ebpf.Program
				programs, err = s.loadPrograms(nil)
				o = &objects{programs: programs}
			}
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(o.programs) < len(hookObjects) {
			t.Errorf("%s: %d programs", name, len(o.programs))
		}
		o.close()
	}
}

// stackDepth is the verifier's list of the functions' frames.
func stackDepth(log string) string {
	for line := range strings.Lines(log) {
		if depth, ok := strings.CutPrefix(line, "stack depth "); ok {
			frames := strings.Split(strings.TrimSpace(depth), "+")
			largest := slices.MaxFunc(frames, func(a, b string) int {
				x, _ := strconv.Atoi(a)
				y, _ := strconv.Atoi(b)
				return x - y
			})
			return strings.Join(frames, "+") + ", largest " + largest
		}
	}
	return "unknown"
}
