package netfilter

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// shared is a chain of the agent's in a table that iptables (nft) uses as well, with jumps to it from base chains.
type shared struct {
	family family
	table  string
	chain  string
	// base chains to jump from; made where create says so, and otherwise only used where somebody else made them.
	base   []*nftables.Chain
	create bool
	rules  [][]expr.Any
}

func (x shared) String() string { return x.familyName() + " " + x.table + " " + x.chain }

func (x shared) familyName() string {
	if x.family.v6 {
		return "ip6"
	}
	return "ip"
}

func (x shared) nftTable() *nftables.Table {
	return &nftables.Table{Family: x.family.table, Name: x.table}
}

// sharedChains lists what of the spec lives in shared tables. With all, also what it does not want, without rules: the
// places where an earlier run may have left something.
func (s Spec) sharedChains(all bool) []shared {
	var out []shared
	for _, f := range []family{four, six} {
		pods := f.of(s.PodCIDRs)
		noTrack := shared{family: f, table: "raw", chain: NoTrackChain, create: true}
		noTrack.base = []*nftables.Chain{
			{Table: noTrack.nftTable(), Name: "PREROUTING", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
			{Table: noTrack.nftTable(), Name: "OUTPUT", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw},
		}
		forward := shared{family: f, table: "filter", chain: ForwardChain}
		forward.base = []*nftables.Chain{{Table: forward.nftTable(), Name: "FORWARD"}}
		for _, p := range pods {
			for _, offset := range []uint32{f.source, f.destination} {
				if s.NoTrack {
					noTrack.rules = append(noTrack.rules, append(f.match(offset, p, false), notTracked()...))
				}
				if s.Forward {
					forward.rules = append(forward.rules, append(append(f.match(offset, p, false), &expr.Counter{}), verdict(expr.VerdictAccept)...))
				}
			}
		}
		for _, x := range []shared{noTrack, forward} {
			if all || len(x.rules) > 0 {
				out = append(out, x)
			}
		}
	}
	return out
}

func jump(to string) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: to}}
}

func (x shared) jumps(c *nftables.Conn, base *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(x.nftTable(), base)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(rules, func(r *nftables.Rule) bool {
		return !slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
			v, ok := e.(*expr.Verdict)
			return ok && v.Chain == x.chain
		})
	}), nil
}

// usable says whether all base chains are there, or are made.
func (x shared) usable(c *nftables.Conn) bool {
	return x.create || !slices.ContainsFunc(x.base, func(b *nftables.Chain) bool {
		_, err := c.ListChain(x.nftTable(), b.Name)
		return err != nil
	})
}

// drops says whether a base chain of somebody else drops by default.
func (x shared) drops(c *nftables.Conn) bool {
	return slices.ContainsFunc(x.base, func(b *nftables.Chain) bool {
		found, err := c.ListChain(x.nftTable(), b.Name)
		return err == nil && found.Policy != nil && *found.Policy == nftables.ChainPolicyDrop
	})
}

// write makes the chain and the jumps to it, first of all rules, in one transaction.
func (x shared) write(c *nftables.Conn) error {
	table := x.nftTable()
	if x.create {
		c.AddTable(table)
		for _, b := range x.base {
			c.AddChain(b)
		}
	}
	own := c.AddChain(&nftables.Chain{Table: table, Name: x.chain})
	c.FlushChain(own)
	for _, rule := range x.rules {
		c.AddRule(&nftables.Rule{Table: table, Chain: own, Exprs: rule})
	}
	for _, b := range x.base {
		present, err := x.jumps(c, b)
		if err != nil && !errors.Is(err, unix.ENOENT) && !x.create {
			return fmt.Errorf("reading chain %s of table %s: %w", b.Name, x.table, err)
		}
		if len(present) == 0 {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: b.Name}, Exprs: jump(x.chain)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing %s: %w", x, err)
	}
	return nil
}

// missing says whether the chain, one of its rules or a jump to it is not there.
func (x shared) missing(c *nftables.Conn) bool {
	rules, err := c.GetRules(x.nftTable(), &nftables.Chain{Name: x.chain})
	if err != nil || len(rules) != len(x.rules) {
		return true
	}
	return slices.ContainsFunc(x.base, func(b *nftables.Chain) bool {
		present, err := x.jumps(c, b)
		return err != nil || len(present) == 0
	})
}

// remove takes the jumps and the chain away, and a table that is empty then. What is not there is fine.
func (x shared) remove(c *nftables.Conn) error {
	if _, err := c.ListChain(x.nftTable(), x.chain); err != nil {
		return nil
	}
	table := x.nftTable()
	for _, b := range x.base {
		present, err := x.jumps(c, b)
		if err != nil {
			continue
		}
		for _, r := range present {
			r.Table, r.Chain = table, &nftables.Chain{Table: table, Name: b.Name}
			if err := c.DelRule(r); err != nil {
				return fmt.Errorf("removing the jump to %s: %w", x, err)
			}
		}
	}
	own := &nftables.Chain{Table: table, Name: x.chain}
	c.FlushChain(own)
	c.DelChain(own)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing %s: %w", x, err)
	}
	if !x.create {
		return nil
	}
	chains, err := c.ListChainsOfTableFamily(x.family.table)
	if err != nil {
		return nil
	}
	for _, other := range chains {
		if other.Table.Name != x.table {
			continue
		}
		if rules, err := c.GetRules(table, other); err != nil || len(rules) > 0 || (other.Policy != nil && *other.Policy != nftables.ChainPolicyAccept) {
			return nil
		}
	}
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing the empty table %s: %w", x.table, err)
	}
	return nil
}

// forwardDrops are base chains that drop forwarded packets by default.
func forwardDrops(c *nftables.Conn) []*nftables.Chain {
	chains, err := c.ListChains()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(chains, func(x *nftables.Chain) bool {
		return x.Hooknum == nil || *x.Hooknum != *nftables.ChainHookForward || x.Policy == nil || *x.Policy != nftables.ChainPolicyDrop
	})
}

// ForwardDrops names them.
func ForwardDrops(c *nftables.Conn) []string {
	var out []string
	for _, x := range forwardDrops(c) {
		out = append(out, x.Table.Name+" "+x.Name)
	}
	return out
}

// foreignDrops names those of others that the agent cannot open.
func foreignDrops(c *nftables.Conn) []string {
	var out []string
	for _, x := range forwardDrops(c) {
		if x.Table.Name == "filter" && x.Name == "FORWARD" && (x.Table.Family == nftables.TableFamilyIPv4 || x.Table.Family == nftables.TableFamilyIPv6) {
			continue
		}
		out = append(out, x.Table.Name+" "+x.Name)
	}
	return out
}
