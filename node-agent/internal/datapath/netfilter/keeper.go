package netfilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long changes by others are waited for to end before the tables are looked at.
	settle = 100 * time.Millisecond
	// lookAgain is how often they are looked at without being told of a change.
	lookAgain = time.Minute
)

// State is how the tables are, for status.
type State struct {
	// Repairs counts how often something was missing that had been there, and LastRepair and LastMissing tell of the last.
	Repairs     uint64
	LastRepair  time.Time
	LastMissing []string
	// Shared are the agent's chains in tables that iptables shares.
	Shared []string
	// Foreign are chains of others that drop forwarded packets by default and that the agent does not open.
	Foreign []string
	// Err is why the tables are not as they should be.
	Err error
}

// Journal is told of a change before it is made.
type Journal func(kind, subject, before, after, undo string) error

// Keeper makes the kernel's tables as a Spec says and keeps them so. All methods are safe for concurrent use.
type Keeper struct {
	mu      sync.Mutex
	connect func() (*nftables.Conn, error)
	journal Journal
	log     *slog.Logger
	spec    Spec
	// written are the parts that were there once.
	written map[string]bool
	state   State
	// Legacy, where set before the first call, names chains of iptables-legacy that drop forwarded packets by default.
	Legacy func() []string
}

// NewKeeper makes a keeper that does nothing until Set.
func NewKeeper(connect func() (*nftables.Conn, error), journal Journal, log *slog.Logger) *Keeper {
	return &Keeper{connect: connect, journal: journal, log: log, written: map[string]bool{}}
}

// Set writes everything that the spec wants and removes what it does not want any more. Nodes that an earlier run knew
// stay until SetNodes says better.
func (k *Keeper) Set(s Spec) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.connect()
	if err != nil {
		return fmt.Errorf("talking to nftables: %w", err)
	}
	s.Nodes = append(slices.Clone(s.Nodes), k.earlierNodes(c, s)...)
	k.spec = s
	k.written = map[string]bool{}
	return k.write(c, nil)
}

func (k *Keeper) earlierNodes(c *nftables.Conn, s Spec) []netip.Addr {
	var out []netip.Addr
	for _, f := range s.families() {
		nodes, _ := f.sets()
		elements, err := c.GetSetElements(nodes)
		if err != nil {
			continue
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok && !slices.Contains(s.Nodes, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// SetNodes makes the set of nodes equal to the given ones.
func (k *Keeper) SetNodes(nodes []netip.Addr) error {
	return k.change(func(s *Spec) bool {
		if slices.Equal(s.Nodes, nodes) {
			return false
		}
		s.Nodes = slices.Clone(nodes)
		return true
	})
}

// SetUnmasqueraded makes the operator's ranges equal to the given ones; connections that are open keep what they have.
func (k *Keeper) SetUnmasqueraded(prefixes []netip.Prefix) error {
	return k.change(func(s *Spec) bool {
		if slices.Equal(s.Unmasqueraded, prefixes) {
			return false
		}
		s.Unmasqueraded = slices.Clone(prefixes)
		return true
	})
}

func (k *Keeper) change(adjust func(*Spec) bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !adjust(&k.spec) || len(k.spec.families()) == 0 {
		return nil
	}
	c, err := k.connect()
	if err != nil {
		return fmt.Errorf("talking to nftables: %w", err)
	}
	if k.spec.missingOwn(c) {
		return k.write(c, nil)
	}
	if err := k.spec.writeSets(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("writing sets of addresses: %w", err)
	}
	return nil
}

// ErrNotRecorded is what becomes of a change that the journal refused: it is not made.
var ErrNotRecorded = errors.New("a change of the packet filter cannot be recorded, and is not made")

func (k *Keeper) record(kind, subject, before, after, undo string) error {
	if err := k.journal(kind, subject, before, after, undo); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	return nil
}

// write writes the parts that only names, or all.
func (k *Keeper) write(c *nftables.Conn, only []string) (err error) {
	defer func() { k.state.Err = err }()
	wanted := func(part string) bool { return only == nil || slices.Contains(only, part) }
	if wanted(TableName) {
		present := hasOwn(c)
		if len(k.spec.families()) > 0 {
			if err := k.record("nftables", "inet "+TableName, "", "table with masquerading rules", "nft delete table inet "+TableName); err != nil {
				return err
			}
		}
		if err := k.spec.writeOwn(c, present); err != nil {
			return err
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("writing table %s: %w", TableName, err)
		}
		k.written[TableName] = len(k.spec.families()) > 0
	}
	if wanted(ProxiesTableName) {
		if k.spec.Proxies != nil {
			if err := k.record("nftables", "inet "+ProxiesTableName, "", "marks answers to the proxies", "nft delete table inet "+ProxiesTableName); err != nil {
				return err
			}
		}
		if err := k.spec.writeProxies(c); err != nil {
			return err
		}
	}
	var failed []error
	var shown []string
	for _, x := range k.spec.sharedChains(true) {
		name := x.String()
		needed := len(x.rules) > 0 && x.usable(c) && (x.create || x.drops(c) || k.written[name])
		if !needed {
			failed = append(failed, x.remove(c))
			delete(k.written, name)
			continue
		}
		shown = append(shown, name)
		if !wanted(name) && k.written[name] {
			continue
		}
		err := k.record("nftables", name, "", fmt.Sprintf("chain with %d rules", len(x.rules)), "iptables: remove the jumps to "+x.chain+" and the chain from table "+x.table)
		if err == nil {
			err = x.write(c)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		k.written[name] = true
	}
	k.state.Shared = shown
	k.lookAtOthers(c)
	return errors.Join(failed...)
}

// lookAtOthers notes who drops forwarded packets without our having a say.
func (k *Keeper) lookAtOthers(c *nftables.Conn) {
	if !k.spec.Forward {
		return
	}
	k.state.Foreign = foreignDrops(c)
	if k.Legacy != nil {
		k.state.Foreign = append(k.state.Foreign, k.Legacy()...)
	}
}

// missing lists parts that are wanted and not there; c is in the state that others left.
func (k *Keeper) missing(c *nftables.Conn) (gone, needed []string) {
	if k.spec.missingOwn(c) {
		gone = append(gone, TableName)
	}
	if k.spec.missingProxies(c) {
		gone = append(gone, ProxiesTableName)
	}
	for _, x := range k.spec.sharedChains(false) {
		name := x.String()
		if !x.usable(c) {
			// Whoever made the base chain took it away, and the need with it.
			delete(k.written, name)
			continue
		}
		if (x.create || x.drops(c) || k.written[name]) && x.missing(c) {
			if k.written[name] {
				gone = append(gone, name)
			} else {
				needed = append(needed, name)
			}
		}
	}
	return gone, needed
}

// Repair puts back what is missing; it says what was gone.
func (k *Keeper) Repair() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.connect()
	if err != nil {
		return nil, fmt.Errorf("talking to nftables: %w", err)
	}
	gone, needed := k.missing(c)
	if len(gone)+len(needed) == 0 {
		k.lookAtOthers(c)
		return nil, nil
	}
	err = k.write(c, append(slices.Clone(gone), needed...))
	if len(gone) > 0 {
		k.state.Repairs++
		k.state.LastRepair, k.state.LastMissing = time.Now(), gone
		k.log.Warn("packet filter rules of ours were removed by somebody else and are back", "missing", strings.Join(gone, ", "), "error", err)
	}
	return gone, err
}

// Run watches the tables and repairs them until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		k.watch(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// watch returns when the kernel's notifications end.
func (k *Keeper) watch(ctx context.Context) {
	var changes chan *nftables.MonitorEvent
	c, err := k.connect()
	if err == nil {
		// Not only what goes: a chain that drops forwarded packets may come.
		monitor := nftables.NewMonitor()
		if changes, err = c.AddMonitor(monitor); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = monitor.Close() })
			defer func() {
				if stop() {
					_ = monitor.Close()
				}
				// Its goroutine ends when somebody takes what it has.
				go func() {
					for range changes {
					}
				}()
			}()
		}
	}
	if err != nil {
		k.log.Warn("changes of the packet filter cannot be watched; looking now and then", "error", err)
	}
	timer := time.NewTimer(settle)
	defer timer.Stop()
	// Somebody who changes rules all the time must not keep the timer from firing.
	soon := true
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-changes:
			if !ok || event.Error != nil {
				return
			}
			if !soon {
				soon = true
				timer.Reset(settle)
			}
		case <-timer.C:
			soon = false
			if _, err := k.Repair(); err != nil {
				k.log.Warn("the packet filter's rules are not as they should be", "error", err)
			}
			timer.Reset(lookAgain)
		}
	}
}

// State tells how it is.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.state
	out.LastMissing, out.Shared, out.Foreign = slices.Clone(out.LastMissing), slices.Clone(out.Shared), slices.Clone(out.Foreign)
	return out
}

// Remove takes everything away that any Spec may have made; for the end of the agent's days on the node.
func Remove(c *nftables.Conn) error {
	var failed []error
	for _, x := range (Spec{}).sharedChains(true) {
		failed = append(failed, x.remove(c))
	}
	for _, table := range []*nftables.Table{ownTable(), proxiesTable()} {
		c.AddTable(table)
		c.DelTable(table)
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		failed = append(failed, fmt.Errorf("removing the tables: %w", err))
	}
	return errors.Join(failed...)
}

// Traces lists what of ours is still in the tables; for a check after Remove.
func Traces(c *nftables.Conn) []string {
	var out []string
	if hasOwn(c) {
		out = append(out, "table inet "+TableName)
	}
	if _, err := c.ListTableOfFamily(ProxiesTableName, nftables.TableFamilyINet); err == nil {
		out = append(out, "table inet "+ProxiesTableName)
	}
	for _, x := range (Spec{}).sharedChains(true) {
		if _, err := c.ListChain(x.nftTable(), x.chain); err == nil {
			out = append(out, "chain "+x.String())
		}
	}
	return out
}
