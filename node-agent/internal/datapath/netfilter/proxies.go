package netfilter

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// ProxiesTableName of the table that belongs to the agent's proxies.
const ProxiesTableName = "fairlead_proxies"

// Marks are those by which packets of the proxies are told from others.
type Marks struct {
	Mask, FromEgressProxy, ToProxy uint32
}

func proxiesTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: ProxiesTableName}
}

// proxyRules by the chain that they stand in.
func (m Marks) proxyRules() map[string][]expr.Any {
	number := binaryutil.NativeEndian.PutUint32
	masked := func(load expr.Any, value uint32) []expr.Any {
		return []expr.Any{
			load,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: number(m.Mask), Xor: number(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: number(value)},
			&expr.Immediate{Register: 1, Data: number(m.ToProxy)},
		}
	}
	return map[string][]expr.Any{
		"output": append(masked(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, m.FromEgressProxy),
			&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true}),
		"prerouting": append(append([]expr.Any{
			&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
		}, masked(&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, m.ToProxy)...),
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}),
	}
}

// writeProxies makes the table, or removes it where there are no proxies:
//
//	table inet fairlead_proxies {
//	  chain output { type filter hook output priority mangle;
//	    meta mark & 0xf00 == 0xb00 ct mark set 0x200
//	  }
//	  chain prerouting { type filter hook prerouting priority mangle;
//	    ct direction reply ct mark & 0xf00 == 0x200 meta mark set 0x200
//	  }
//	}
//
// Answers to a connection that a proxy opened for a pod, and that netfilter masquerades, get the pod's address back before
// they are routed; without the mark the stack would forward them to the pod and find that they have a socket, which it drops.
// The programs see no such packet: it came in with the node's address.
func (s Spec) writeProxies(c *nftables.Conn) error {
	table := proxiesTable()
	// Adding makes the deletion succeed where there is none.
	c.AddTable(table)
	c.DelTable(table)
	if s.Proxies != nil {
		c.AddTable(table)
		rules := s.Proxies.proxyRules()
		for _, x := range []struct {
			name string
			hook *nftables.ChainHook
		}{{"output", nftables.ChainHookOutput}, {"prerouting", nftables.ChainHookPrerouting}} {
			chain := c.AddChain(&nftables.Chain{Table: table, Name: x.name, Type: nftables.ChainTypeFilter, Hooknum: x.hook, Priority: nftables.ChainPriorityMangle})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rules[x.name]})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing table %s: %w", ProxiesTableName, err)
	}
	return nil
}

// missingProxies says whether the proxies' table lacks something.
func (s Spec) missingProxies(c *nftables.Conn) bool {
	if s.Proxies == nil {
		return false
	}
	for name := range s.Proxies.proxyRules() {
		if rules, err := c.GetRules(proxiesTable(), &nftables.Chain{Name: name}); err != nil || len(rules) != 1 {
			return true
		}
	}
	return false
}
