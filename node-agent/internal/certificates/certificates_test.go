package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const nodeName = "node1.default.hubble-grpc.cilium.io"

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _ := x509.ParseCertificate(der)
	return authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// write issues a certificate into a directory.
func (a authority) write(t *testing.T, directory string, names ...string) {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := x509.MarshalPKCS8PrivateKey(key)
	for name, content := range map[string][]byte{"ca.crt": a.pem, "tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	server, agent, console, stranger := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	ca.write(t, server, "*.default.hubble-grpc.cilium.io")
	ca.write(t, agent, "*.default.hubble-grpc.cilium.io")
	ca.write(t, console)
	foreign.write(t, stranger, "*.default.hubble-grpc.cilium.io")

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wasAgent bool
	s := grpc.NewServer(grpc.Creds(Open(server).Server()), grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		wasAgent = IsAgent(ctx, nodeName)
		return next(ctx, r)
	}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(listener) }()
	defer s.Stop()

	tests := []struct {
		name, directory, serverName string
		agent, refused              bool
	}{
		{name: "an agent", directory: agent, serverName: nodeName, agent: true},
		{name: "the console", directory: console, serverName: nodeName},
		{name: "a certificate of another authority", directory: stranger, serverName: nodeName, refused: true},
		{name: "another server than asked for", directory: agent, serverName: "node1.other.hubble-grpc.cilium.io", refused: true},
		{name: "no certificate", directory: t.TempDir(), serverName: nodeName, refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(Open(tt.directory).Client(tt.serverName)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
			if tt.refused {
				if status.Code(err) != codes.Unavailable {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil || wasAgent != tt.agent {
				t.Fatalf("agent %v, %v", wasAgent, err)
			}
		})
	}
}

func TestChangedFilesAreReadAgain(t *testing.T) {
	directory := t.TempDir()
	d := Open(directory)
	if d.Check() == nil {
		t.Fatal("an empty directory is fine?")
	}
	newAuthority(t).write(t, directory, "a.example")
	first, err := d.load()
	if err != nil {
		t.Fatal(err)
	}
	newAuthority(t).write(t, directory, "b.example")
	d.looked = time.Time{}
	second, err := d.load()
	if err != nil || second == first {
		t.Fatalf("not read again: %v", err)
	}
	if err := os.WriteFile(filepath.Join(directory, "tls.crt"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.looked = time.Time{}
	if third, err := d.load(); err != nil || third != second {
		t.Fatalf("a half-written file replaced a whole one: %v", err)
	}
}
