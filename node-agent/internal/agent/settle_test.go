package agent

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestUnchangeable(t *testing.T) {
	const maps = `00400000-012d1000 r-xp 00000000 00:974 11059687                          /fairlead-agent
012d1000-0252f000 r--p 00ed1000 00:974 11059687                          /fairlead-agent
0252f000-025c6000 rw-p 0212f000 00:974 11059687                          /fairlead-agent
025c6000-0460f000 rw-p 00000000 00:00 0 
36d510c00000-36d512400000 rw-p 00000000 00:00 0 
7f4b02c95000-7f4b03496000 r--s 00001000 00:10 12                         anon_inode:bpf-map
7f4b4a878000-7f4b4a87a000 r-xp 00000000 00:00 0                          [vdso]
`
	for _, c := range []struct {
		name, path string
		want       []addresses
	}{
		{"the binary's, but not what it can write to", "/fairlead-agent", []addresses{{0x400000, 0x12d1000}, {0x12d1000, 0x252f000}}},
		{"shared with others", "anon_inode:bpf-map", nil},
		{"another file", "/fairlead", nil},
	} {
		got, err := unchangeable(strings.NewReader(maps), c.path)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %x, %v; want %x", c.name, got, err, c.want)
		}
	}
	if _, err := unchangeable(strings.NewReader("zz-1 r-xp 0 0:0 1 /a\n"), "/a"); err == nil {
		t.Error("a line that cannot be read was passed over")
	}
}

// residentFile gives how much of files is in this process's memory, in kB.
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kB
}

func TestForgetBinary(t *testing.T) {
	before := residentFile(t)
	given, err := forgetBinary()
	if err != nil {
		t.Fatal(err)
	}
	after := residentFile(t)
	t.Logf("%d kB of files before, %d kB after, %d kB offered", before, after, given/1024)
	if given < 1<<20 || after >= before {
		t.Errorf("%d bytes were offered, and %d kB of files became %d kB", given, before, after)
	}
}
