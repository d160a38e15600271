package netfilter

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

type xtInfo []byte

func (x xtInfo) any() xt.InfoAny {
	u := xt.Unknown(x)
	return &u
}

func ownTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

func (s Spec) masquerades(f family) bool {
	if f.v6 {
		return s.Masquerade6
	}
	return s.Masquerade
}

func (s Spec) families() []family {
	var out []family
	for _, f := range []family{four, six} {
		if s.masquerades(f) && len(f.of(s.PodCIDRs)) > 0 {
			out = append(out, f)
		}
	}
	return out
}

// masqueradeRules of one family, in order; the first that matches decides.
func (s Spec) masqueradeRules(f family, nodes, unmasqueraded *nftables.Set) [][]expr.Any {
	var out [][]expr.Any
	for _, pods := range f.of(s.PodCIDRs) {
		from := func(parts ...[]expr.Any) {
			rule := f.match(f.source, pods, true)
			for _, p := range parts {
				rule = append(rule, p...)
			}
			out = append(out, rule)
		}
		from(f.match(f.destination, pods, true), verdict(expr.VerdictAccept))
		for _, native := range f.of(s.NativeCIDRs) {
			from(f.match(f.destination, native, true), verdict(expr.VerdictAccept))
		}
		from(f.lookup(nodes), verdict(expr.VerdictAccept))
		from(f.lookup(unmasqueraded), verdict(expr.VerdictAccept))
		for _, d := range s.Devices {
			from(leaving(d), []expr.Any{&expr.Masq{}})
		}
	}
	return out
}

// writeOwn queues the whole table:
//
//	table inet fairlead {
//	  set nodes { type ipv4_addr; }                              # reached by pods as they are
//	  set unmasqueraded { type ipv4_addr; flags interval; }      # the operator's rules
//	  set nodes6, unmasqueraded6                                 # the same of version 6
//	  chain postrouting { type nat hook postrouting priority srcnat;
//	    ip saddr PODCIDR ip daddr PODCIDR accept
//	    ip saddr PODCIDR ip daddr NATIVECIDR accept
//	    ip saddr PODCIDR ip daddr @nodes accept
//	    ip saddr PODCIDR ip daddr @unmasqueraded accept
//	    ip saddr PODCIDR oifname DEVICE masquerade               # for each device
//	  }
//	}
func (s Spec) writeOwn(c *nftables.Conn, present bool) error {
	table := ownTable()
	postrouting := &nftables.Chain{
		Table: table, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
	families := s.families()
	if len(families) == 0 && s.KeepConnections && present {
		// A chain without a rule that asks for connections has the kernel stop tracking them, and with that translating.
		c.FlushChain(c.AddChain(postrouting))
		c.AddRule(&nftables.Rule{Table: table, Chain: postrouting, Exprs: append([]expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		}, verdict(expr.VerdictAccept)...)})
		return nil
	}
	// Adding makes the deletion succeed where there is none.
	c.AddTable(table)
	c.DelTable(table)
	if len(families) == 0 {
		return nil
	}
	c.AddTable(table)
	chain := c.AddChain(postrouting)
	for _, f := range families {
		nodes, unmasqueraded := f.sets()
		if err := c.AddSet(nodes, f.nodeElements(s.Nodes)); err != nil {
			return fmt.Errorf("adding the set of nodes: %w", err)
		}
		if err := c.AddSet(unmasqueraded, f.intervalElements(s.Unmasqueraded)); err != nil {
			return fmt.Errorf("adding the set of unmasqueraded ranges: %w", err)
		}
		for _, rule := range s.masqueradeRules(f, nodes, unmasqueraded) {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
		}
	}
	return nil
}

func (f family) sets() (nodes, unmasqueraded *nftables.Set) {
	return &nftables.Set{Table: ownTable(), Name: "nodes" + f.suffix, KeyType: f.key},
		&nftables.Set{Table: ownTable(), Name: "unmasqueraded" + f.suffix, KeyType: f.key, Interval: true}
}

// writeSets queues new elements for the sets of a table that is there.
func (s Spec) writeSets(c *nftables.Conn) error {
	for _, f := range s.families() {
		nodes, unmasqueraded := f.sets()
		c.FlushSet(nodes)
		if err := c.SetAddElements(nodes, f.nodeElements(s.Nodes)); err != nil {
			return fmt.Errorf("filling the set of nodes: %w", err)
		}
		c.FlushSet(unmasqueraded)
		if err := c.SetAddElements(unmasqueraded, f.intervalElements(s.Unmasqueraded)); err != nil {
			return fmt.Errorf("filling the set of unmasqueraded ranges: %w", err)
		}
	}
	return nil
}

// missingOwn says whether the own table lacks something.
func (s Spec) missingOwn(c *nftables.Conn) bool {
	families := s.families()
	if len(families) == 0 {
		return false
	}
	want := 0
	for _, f := range families {
		nodes, unmasqueraded := f.sets()
		want += len(s.masqueradeRules(f, nodes, unmasqueraded))
	}
	rules, err := c.GetRules(ownTable(), &nftables.Chain{Name: "postrouting"})
	return err != nil || len(rules) != want
}

func hasOwn(c *nftables.Conn) bool {
	_, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	return err == nil
}
