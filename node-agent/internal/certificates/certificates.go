// Package certificates gives mTLS configurations out of a directory whose files may change at any time.
package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Directory is a mounted Secret: ca.crt, tls.crt, tls.key, and optionally client.crt, client.key. All methods are safe
// for concurrent use.
type Directory struct {
	path string
	mu   sync.Mutex
	// loaded is what was read last, and stamp when its files were changed.
	loaded *material
	stamp  string
	looked time.Time
}

type material struct {
	authority      *x509.CertPool
	server, client tls.Certificate
}

// lookEvery bounds how often the files' times are read.
const lookEvery = time.Second

// Open makes a directory; nothing is read yet.
func Open(path string) *Directory { return &Directory{path: path} }

// Check tells whether the files are there and usable.
func (d *Directory) Check() error {
	_, err := d.load()
	return err
}

func (d *Directory) load() (*material, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded != nil && time.Since(d.looked) < lookEvery {
		return d.loaded, nil
	}
	d.looked = time.Now()
	stamp, err := d.times()
	if err == nil && d.loaded != nil && stamp == d.stamp {
		return d.loaded, nil
	}
	if err == nil {
		var m *material
		if m, err = read(d.path); err == nil {
			d.loaded, d.stamp = m, stamp
			return m, nil
		}
	}
	if d.loaded != nil {
		// Half-written or removed: the former ones are as good as before.
		return d.loaded, nil
	}
	return nil, err
}

func (d *Directory) times() (string, error) {
	var b strings.Builder
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		info, err := os.Stat(filepath.Join(d.path, name))
		if err != nil {
			return "", fmt.Errorf("reading the certificates: %w", err)
		}
		fmt.Fprintf(&b, "%s %d %d\n", name, info.ModTime().UnixNano(), info.Size())
	}
	return b.String(), nil
}

func read(path string) (*material, error) {
	authority, err := os.ReadFile(filepath.Join(path, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the certificates: %w", err)
	}
	m := &material{authority: x509.NewCertPool()}
	if !m.authority.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s/ca.crt has no certificate in it", path)
	}
	if m.server, err = tls.LoadX509KeyPair(filepath.Join(path, "tls.crt"), filepath.Join(path, "tls.key")); err != nil {
		return nil, fmt.Errorf("reading the certificates: %w", err)
	}
	m.client, err = tls.LoadX509KeyPair(filepath.Join(path, "client.crt"), filepath.Join(path, "client.key"))
	if errors.Is(err, fs.ErrNotExist) {
		m.client, err = m.server, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the client's certificate: %w", err)
	}
	return m, nil
}

// Server gives credentials that ask every client for a certificate of our authority.
func (d *Directory) Server() credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m, err := d.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{m.server},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: m.authority}, nil
		}})
}

// Client gives credentials for a call to the agent of that name.
func (d *Directory) Client(serverName string) credentials.TransportCredentials {
	config := d.ClientConfig()
	config.ServerName = serverName
	return credentials.NewTLS(config)
}

// ClientConfig is what Client is made of; ServerName has to be set.
func (d *Directory) ClientConfig() *tls.Config {
	// The authority may change as well, so the verification is ours, with the present one.
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			m, err := d.load()
			if err != nil {
				return err
			}
			if state.ServerName == "" {
				return errors.New("no server name was asked for")
			}
			intermediates := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				intermediates.AddCert(c)
			}
			_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: state.ServerName, Roots: m.authority, Intermediates: intermediates})
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m, err := d.load()
			if err != nil {
				return nil, err
			}
			return &m.client, nil
		}}
}

// IsAgent tells whether the caller of an RPC holds a certificate of an agent of the cluster, and not only a client's.
func IsAgent(ctx context.Context, serverName string) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return false
	}
	return info.State.VerifiedChains[0][0].VerifyHostname(serverName) == nil
}
