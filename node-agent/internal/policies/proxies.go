package policies

import (
	"net/netip"
	"sync"

	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/policy"
)

// Proxies are the ports on which the agent's proxies accept connections, by direction; 0 where there is none.
type Proxies struct{ HTTP, DNS [2]uint16 }

// UseProxies tells where the proxies listen; to be called before Start. Without them policies that need one are not valid, and
// lines that ask for one deny. changed is called whenever rules may have changed, with the manager's lock held.
func (m *Manager) UseProxies(p Proxies, changed func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proxies, m.changed = p, changed
	m.settings[policy.RequiresL7Proxy] = true
}

func (m *Manager) proxyPort(kind policy.ProxyKind, d policy.Direction) uint16 {
	switch kind {
	case policy.ProxyHTTP:
		return m.proxies.HTTP[d]
	case policy.ProxyDNS:
		return m.proxies.DNS[d]
	default:
		return 0
	}
}

func (m *Manager) lineOf(endpoint datapath.EndpointID, e policy.Entry) datapath.PolicyEntry {
	line := datapath.PolicyEntry{PolicyKey: keyOf(endpoint, e.Key), PolicyValue: datapath.PolicyValue{Deny: e.Deny, Rule: uint32(e.Rule)}}
	if e.Proxy != policy.ProxyNone && !e.Deny {
		line.ProxyPort = m.proxyPort(e.Proxy, e.Direction)
		// What a proxy has to look into is closed while there is no proxy.
		line.Deny = line.ProxyPort == 0
	}
	return line
}

// question is a connection as the proxies ask about it.
type question struct {
	endpoint  datapath.EndpointID
	direction policy.Direction
	peer      policy.NumericIdentity
	block     policy.NumericIdentity
	protocol  uint8
	port      uint16
}

// answers remembers what the proxies asked until something changes.
type answers struct{ all sync.Map }

// answersChanged forgets them.
func (m *Manager) answersChanged() {
	m.answers.Store(&answers{})
	if m.changed != nil {
		m.changed()
	}
}

// L7 gives the rules that apply now to a connection of an endpoint with a peer, which has that identity and address.
func (m *Manager) L7(endpoint datapath.EndpointID, direction policy.Direction, peer policy.NumericIdentity, address netip.Addr, protocol uint8, port uint16) policy.AnswerL7 {
	if m.mode == ModeNever {
		return policy.AnswerL7{Open: true}
	}
	known := m.answers.Load()
	block := m.blockAround(address)
	q := question{endpoint, direction, peer, block, protocol, port}
	if answer, ok := known.all.Load(q); ok {
		return answer.(policy.AnswerL7)
	}
	answer := m.engine.L7(policy.SubjectID(endpoint), direction, peer, block, protocol, port)
	known.all.Store(q, answer)
	return answer
}
