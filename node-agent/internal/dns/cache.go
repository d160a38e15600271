package dns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/statefile"
	"fairlead.dev/node-agent/policy"
)

// Options of a Cache.
type Options struct {
	// MinTTL is the least time that an address counts; MaxIPsPerHost how many a pod keeps of one name.
	MinTTL        time.Duration
	MaxIPsPerHost int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Uptime names this boot and says how old it is, by a clock that nobody sets; nil means the kernel's.
	Uptime func() (boot string, age time.Duration)
}

// Cache remembers which addresses DNS gave to which pod for which name. It is pure memory: who has to know of a change is
// told by the return values. All methods are safe for concurrent use.
type Cache struct {
	options Options

	mu sync.Mutex
	// names is by endpoint, then by name, then by address: until when it counts.
	names map[uint32]map[string]map[netip.Addr]time.Time
	// rules are those that policies select peers by.
	rules []policy.NameRule
	// labels is what was last said of an address.
	labels  map[netip.Addr][]string
	unsaved bool
}

// NewCache makes an empty cache.
func NewCache(o Options) *Cache {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Uptime == nil {
		o.Uptime = uptime
	}
	if o.MaxIPsPerHost <= 0 {
		o.MaxIPsPerHost = 50
	}
	return &Cache{options: o, names: map[uint32]map[string]map[netip.Addr]time.Time{}, labels: map[netip.Addr][]string{}}
}

func normal(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// Learn takes an answer in. It returns which addresses are selected by other rules than before, with the rules' texts; an
// empty list means by none.
func (c *Cache) Learn(endpoint uint32, name string, addresses []netip.Addr, ttl time.Duration) map[netip.Addr][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name = normal(name)
	if !c.wanted(name) {
		// Nothing is selected by it; what a later policy selects is learned when the name is asked for again.
		return nil
	}
	until := c.options.Now().Add(max(ttl, c.options.MinTTL))
	ofEndpoint := c.names[endpoint]
	if ofEndpoint == nil {
		ofEndpoint = map[string]map[netip.Addr]time.Time{}
		c.names[endpoint] = ofEndpoint
	}
	known := ofEndpoint[name]
	if known == nil {
		known = map[netip.Addr]time.Time{}
		ofEndpoint[name] = known
	}
	touched := map[netip.Addr]struct{}{}
	for _, a := range addresses {
		a = a.Unmap()
		if old, ok := known[a]; !ok || until.After(old) {
			known[a] = until
			touched[a] = struct{}{}
		}
	}
	for len(known) > c.options.MaxIPsPerHost {
		// The one that ends first goes, but none of the present answer.
		var first netip.Addr
		for a, ends := range known {
			if _, fresh := touched[a]; !fresh && (!first.IsValid() || ends.Before(known[first]) || ends.Equal(known[first]) && a.Less(first)) {
				first = a
			}
		}
		if !first.IsValid() {
			break
		}
		delete(known, first)
		touched[first] = struct{}{}
	}
	c.unsaved = true
	return c.relabel(touched)
}

func (c *Cache) wanted(name string) bool {
	return slices.ContainsFunc(c.rules, func(r policy.NameRule) bool { return r.Matches(name) })
}

// relabel works out what selects the addresses now, and gives what changed; called with mu held.
func (c *Cache) relabel(addresses map[netip.Addr]struct{}) map[netip.Addr][]string {
	texts := map[netip.Addr]map[string]struct{}{}
	for _, names := range c.names {
		for name, known := range names {
			for a := range known {
				if _, ok := addresses[a]; !ok {
					continue
				}
				for _, r := range c.rules {
					if r.Matches(name) {
						if texts[a] == nil {
							texts[a] = map[string]struct{}{}
						}
						texts[a][r.Text] = struct{}{}
					}
				}
			}
		}
	}
	changed := map[netip.Addr][]string{}
	for a := range addresses {
		now := make([]string, 0, len(texts[a]))
		for text := range texts[a] {
			now = append(now, text)
		}
		slices.Sort(now)
		if slices.Equal(now, c.labels[a]) {
			continue
		}
		changed[a] = now
		if len(now) == 0 {
			delete(c.labels, a)
		} else {
			c.labels[a] = now
		}
	}
	return changed
}

func (c *Cache) everything() map[netip.Addr]struct{} {
	all := map[netip.Addr]struct{}{}
	for a := range c.labels {
		all[a] = struct{}{}
	}
	for _, names := range c.names {
		for _, known := range names {
			for a := range known {
				all[a] = struct{}{}
			}
		}
	}
	return all
}

// SetRules replaces the rules that policies select peers by, and returns what changed.
func (c *Cache) SetRules(rules []policy.NameRule) map[netip.Addr][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := func(a, b policy.NameRule) bool { return a.Text == b.Text }
	if slices.EqualFunc(c.rules, rules, same) {
		return nil
	}
	c.rules = rules
	return c.relabel(c.everything())
}

// Expire forgets what has run out, unless a connection still uses the address, and pods that are gone. inUse is asked only
// where something has run out.
func (c *Cache) Expire(alive func(endpoint uint32) bool, inUse func() map[netip.Addr]struct{}) map[netip.Addr][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.options.Now()
	var used map[netip.Addr]struct{}
	touched := map[netip.Addr]struct{}{}
	for endpoint, names := range c.names {
		gone := !alive(endpoint)
		for name, known := range names {
			for a, until := range known {
				if !gone {
					if until.After(now) {
						continue
					}
					if used == nil {
						used = inUse()
					}
					if _, lives := used[a]; lives {
						continue
					}
				}
				delete(known, a)
				touched[a] = struct{}{}
			}
			if len(known) == 0 {
				delete(names, name)
			}
		}
		if len(names) == 0 {
			delete(c.names, endpoint)
		}
	}
	if len(touched) == 0 {
		return nil
	}
	c.unsaved = true
	return c.relabel(touched)
}

// Entry is one line of the cache.
type Entry struct {
	Endpoint uint32     `json:"endpoint"`
	Name     string     `json:"name"`
	Address  netip.Addr `json:"address"`
	Until    time.Time  `json:"until"`
}

// Entries lists the cache, sorted.
func (c *Cache) Entries() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries()
}

func (c *Cache) entries() []Entry {
	out := []Entry{}
	for endpoint, names := range c.names {
		for name, known := range names {
			for a, until := range known {
				out = append(out, Entry{endpoint, name, a, until})
			}
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		if a.Endpoint != b.Endpoint {
			return int(a.Endpoint) - int(b.Endpoint)
		}
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Address.Compare(b.Address)
	})
	return out
}

// savedCache is the file: when it was written by the machine's clock, which may be set, and by the age of the boot.
type savedCache struct {
	At      time.Time     `json:"at"`
	Boot    string        `json:"boot"`
	Age     time.Duration `json:"age"`
	Entries []Entry       `json:"entries"`
}

func uptime() (string, time.Duration) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var age unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &age) != nil {
		return "", 0
	}
	return strings.TrimSpace(string(boot)), time.Duration(age.Nano())
}

// Save writes the cache to a file where it changed since the last time: a restarted agent knows what its pods know.
func (c *Cache) Save(path string) error {
	c.mu.Lock()
	if !c.unsaved {
		c.mu.Unlock()
		return nil
	}
	c.unsaved = false
	now := c.options.Now()
	file := savedCache{At: now.Round(0), Entries: c.entries()}
	file.Boot, file.Age = c.options.Uptime()
	for i, e := range file.Entries {
		// What is left of it, by the clock of this process: that of the machine may have been set meanwhile.
		file.Entries[i].Until = file.At.Add(e.Until.Sub(now))
	}
	text, err := json.Marshal(file)
	c.mu.Unlock()
	if err == nil {
		err = statefile.Write(path, text)
	}
	if err != nil {
		c.mu.Lock()
		c.unsaved = true
		c.mu.Unlock()
		return fmt.Errorf("saving the addresses of names: %w", err)
	}
	return nil
}

// Load reads what Save wrote; no file is no error. What has run out meanwhile stays until Expire has asked who uses it.
func (c *Cache) Load(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file savedCache
	switch {
	case err != nil:
	case len(text) > 0 && text[0] == '[':
		// As it was before the file said when it was written.
		file.At = c.options.Now()
		err = json.Unmarshal(text, &file.Entries)
	default:
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		return fmt.Errorf("reading the addresses of names: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.options.Now()
	elapsed := now.Sub(file.At)
	if boot, age := c.options.Uptime(); boot == file.Boot && boot != "" {
		elapsed = age - file.Age
	}
	elapsed = max(elapsed, 0)
	for _, e := range file.Entries {
		e.Until = now.Add(e.Until.Sub(file.At) - elapsed)
		if c.names[e.Endpoint] == nil {
			c.names[e.Endpoint] = map[string]map[netip.Addr]time.Time{}
		}
		if c.names[e.Endpoint][e.Name] == nil {
			c.names[e.Endpoint][e.Name] = map[netip.Addr]time.Time{}
		}
		c.names[e.Endpoint][e.Name][e.Address] = e.Until
	}
	return nil
}
