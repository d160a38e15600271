package datapath

import "testing"

// What went the short way belongs to its connection: one that has its ports after it begins at nothing, whichever side ended
// the one before, and so do the listings.
func TestShortcutsOfPortsThatAreUsedAgain(t *testing.T) {
	for name, answers := range map[string]bool{"the client ended it": false, "the server ended it": true} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, false)
			c.send(40, ack)
			for _, f := range []frame{c.out, c.back} {
				if s := c.shortcut(f); s == nil || s.Packets == 0 {
					t.Fatalf("the shortcut is %+v: nothing went that way", s)
				}
			}
			end := c.out
			if answers {
				end = c.back
			}
			end.flags = rst | ack
			c.expect("the end", "from_pod", end, verdictRedirect)
			out, back := c.out, c.back
			out.flags, back.flags = syn, syn|ack
			c.expect("opening again", "from_pod", out, verdictRedirect)
			c.expect("opened again", "from_pod", back, verdictRedirect)
			// A pod that had the address before had another interface.
			before := c.key(c.out)
			before.Ifindex += 1000
			c.must(c.objects.maps["shortcuts"].Put(before, shortcutLayout{Packets: 1000, Bytes: 1000}))
			listed, err := c.Conntrack(0)
			c.must(err)
			for _, e := range listed {
				if e.PacketsOut != 1 || e.PacketsIn != 1 {
					t.Errorf("just opened, and %d packets out and %d in are listed", e.PacketsOut, e.PacketsIn)
				}
			}
			c.sent = 1
			c.send(3, ack)
			for id, f := range map[uint16]frame{1: c.out, 2: c.back} {
				if e := c.entry(id, f); e.Packets != [2]uint64{c.sent, c.sent} {
					t.Errorf("endpoint %d's entry has %d packets of %d each way", id, e.Packets, c.sent)
				}
			}
		})
	}
}
