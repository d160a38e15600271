//go:build tools

// Package hubble builds the stock Hubble command line client. It is a test dependency: the observer's promise is that
// this client, unchanged, shows our flows.
package hubble

import _ "github.com/cilium/cilium/hubble"
