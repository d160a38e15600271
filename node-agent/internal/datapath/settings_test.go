package datapath

import "testing"

func TestPortsAreAddedToAList(t *testing.T) {
	for _, test := range []struct{ list, want string }{
		{"", "30000-32767"},
		{"\n", "30000-32767"},
		{"8080", "8080,30000-32767"},
		{"8080,40000-40010", "8080,30000-32767,40000-40010"},
		{"29999", "29999-32767"},
		{"30000-32767", "30000-32767"},
		{"31000", "30000-32767"},
		{"32768-33000,1", "1,30000-33000"},
	} {
		if got := withPorts(test.list, 30000, 32767); got != test.want {
			t.Errorf("%q: %q, want %q", test.list, got, test.want)
		}
	}
}
