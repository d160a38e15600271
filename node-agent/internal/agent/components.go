package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/datapath"
)

// components holds the state of every part of the agent, for status and readiness.
type components struct {
	mu    sync.RWMutex
	order []string
	all   map[string]api.Component
	log   *slog.Logger
}

func newComponents(log *slog.Logger) *components {
	return &components{all: map[string]api.Component{}, log: log}
}

// set replaces a component's state; a change is logged.
func (c *components) set(name string, state api.State, message, fix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.all[name]
	if !known {
		c.order = append(c.order, name)
	}
	now := api.Component{Name: name, State: state, Message: message, Fix: fix}
	c.all[name] = now
	if old != now {
		level := slog.LevelInfo
		if state == api.StateFailing || state == api.StateDegraded {
			level = slog.LevelWarn
		}
		c.log.Log(context.Background(), level, "component", "name", name, "state", string(state), "message", message, "fix", fix)
	}
}

func (c *components) ok(name, message string) { c.set(name, api.StateOK, message, "") }

// fail says what is wrong in the words of the error, where it has some.
func (c *components) fail(name string, err error, fix string) {
	message := err.Error()
	var p *datapath.Problem
	var configured *config.Problem
	switch {
	case errors.As(err, &p):
		message, fix = p.What+" "+p.Why, p.Fix
	case errors.As(err, &configured):
		message, fix = err.Error(), configured.Fix
	}
	c.set(name, api.StateFailing, message, fix)
}

func (c *components) list() []api.Component {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]api.Component, 0, len(c.order))
	for _, name := range c.order {
		out = append(out, c.all[name])
	}
	return out
}
