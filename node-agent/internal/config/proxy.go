package config

import (
	"fmt"
	"time"
)

// ProxyOptions are of the agent's proxies.
type ProxyOptions struct {
	// L7Proxy, on unless set, runs the proxies for rules on HTTP, DNS and names.
	L7Proxy  *bool    `json:"l7Proxy,omitempty"`
	DNSProxy DNSProxy `json:"dnsProxy,omitempty"`
}

// DNSProxy tunes what is learned of DNS.
type DNSProxy struct {
	// MinTTL in seconds: a name's addresses count at least so long.
	MinTTL int `json:"minTtl,omitempty"`
	// MaxIPsPerHost is how many addresses a pod keeps of one name.
	MaxIPsPerHost int `json:"maxIPsPerHost,omitempty"`
	// ProxyResponseMaxDelay is how long an answer waits for its addresses to be allowed.
	ProxyResponseMaxDelay string `json:"proxyResponseMaxDelay,omitempty"`
}

// ResponseMaxDelay is the parsed delay.
func (d DNSProxy) ResponseMaxDelay() time.Duration {
	delay, _ := time.ParseDuration(d.ProxyResponseMaxDelay)
	return delay
}

func (p *ProxyOptions) fill() {
	if p.L7Proxy == nil {
		yes := true
		p.L7Proxy = &yes
	}
	fill(&p.DNSProxy.MaxIPsPerHost, 50)
	fill(&p.DNSProxy.ProxyResponseMaxDelay, "100ms")
}

func (p *ProxyOptions) check(refuse func(field, what, why, fix string)) {
	if p.DNSProxy.MinTTL < 0 {
		refuse("dnsProxy.minTtl", fmt.Sprintf("%d is no number of seconds.", p.DNSProxy.MinTTL), "It cannot be negative.", "Use 0 to go by what DNS says.")
	}
	if p.DNSProxy.MaxIPsPerHost < 0 {
		refuse("dnsProxy.maxIPsPerHost", fmt.Sprintf("%d is no number of addresses.", p.DNSProxy.MaxIPsPerHost), "It cannot be negative.", "Leave it out for 50.")
	}
	if d, err := time.ParseDuration(p.DNSProxy.ProxyResponseMaxDelay); err != nil || d < 0 || d > 10*time.Second {
		refuse("dnsProxy.proxyResponseMaxDelay", fmt.Sprintf("%q is no delay.", p.DNSProxy.ProxyResponseMaxDelay),
			"Every answer of DNS may have to wait so long.", "Write it as 100ms; at most 10s.")
	}
}
