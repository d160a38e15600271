package datapath

import "log/slog"

// Journal is told about each change that is made to the host outside of our own maps and interfaces, before it is made:
// kind ("sysctl"), subject ("net.ipv4.ip_forward"), the value before and after, and the command that undoes it.
// An error keeps the change from being made.
type Journal func(kind, subject, before, after, undo string) error

// Option changes how Open works; none of them changes the programs.
type Option func(*options)

type options struct {
	journal Journal
	log     *slog.Logger
	probes  Probes
}

// WithJournal makes Open and later calls report changes to the host.
func WithJournal(j Journal) Option { return func(o *options) { o.journal = j } }

// WithLogger sets where the datapath logs; slog.Default() otherwise.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

// WithProbes replaces the kernel's feature probes, to try what happens on a lesser kernel.
func WithProbes(p Probes) Option { return func(o *options) { o.probes = p } }
