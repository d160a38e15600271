// pki writes the lab's certificates, keys and kubeconfigs into a directory.
//
//	pki -dir DIR -server URL -san IP,DNS,... [-node NAME=IP ...]
//
// DIR gets ca, apiserver, apiserver-kubelet, front-proxy, one pair per node
// (all .crt and .key), sa.key and sa.pub for service account tokens, and a
// <user>.kubeconfig with everything embedded for admin, kcm, scheduler, proxy
// and every node. All keys are P-256; certificates hold for a year.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// authority signs into one directory.
type authority struct {
	dir, server string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) writePEM(name, kind string, der []byte, mode os.FileMode) error {
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(a.path(name), b, mode); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// newKey makes a key and writes NAME.key.
func (a *authority) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", name, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of %s: %w", name, err)
	}
	return key, a.writePEM(name+".key", "EC PRIVATE KEY", der, 0o600)
}

// sign writes NAME.key and NAME.crt. Without parent the certificate is the
// authority's own.
func (a *authority) sign(name string, subject pkix.Name, san []string) error {
	key, err := a.newKey(name)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fmt.Errorf("making a serial number: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		// An hour back: clocks that differ a little must not matter.
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, s := range san {
		if ip := net.ParseIP(s); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, s)
		}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		tmpl.IsCA, tmpl.KeyUsage, tmpl.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, crypto.PublicKey(&key.PublicKey), signer)
	if err != nil {
		return fmt.Errorf("signing %s: %w", name, err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("reading back %s: %w", name, err)
		}
		a.key = key
	}
	return a.writePEM(name+".crt", "CERTIFICATE", der, 0o644)
}

// kubeconfig writes USER.kubeconfig from the pair of that name.
func (a *authority) kubeconfig(user string) error {
	data := map[string]string{"CA": "ca.crt", "CERT": user + ".crt", "KEY": user + ".key"}
	pairs := []string{"SERVER", a.server, "USER", user}
	for k, f := range data {
		b, err := os.ReadFile(a.path(f))
		if err != nil {
			return fmt.Errorf("reading %s: %w", f, err)
		}
		pairs = append(pairs, k+"64", base64.StdEncoding.EncodeToString(b))
	}
	text := strings.NewReplacer(pairs...).Replace(`apiVersion: v1
kind: Config
clusters:
- name: fairlead-lab
  cluster:
    server: SERVER
    certificate-authority-data: CA64
users:
- name: fairlead-lab-USER
  user:
    client-certificate-data: CERT64
    client-key-data: KEY64
contexts:
- name: fairlead-lab
  context:
    cluster: fairlead-lab
    user: fairlead-lab-USER
current-context: fairlead-lab
`)
	if err := os.WriteFile(a.path(user+".kubeconfig"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing kubeconfig of %s: %w", user, err)
	}
	return nil
}

// serviceAccountKey writes sa.key and sa.pub.
func (a *authority) serviceAccountKey() error {
	key, err := a.newKey("sa")
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("encoding sa.pub: %w", err)
	}
	return a.writePEM("sa.pub", "PUBLIC KEY", der, 0o644)
}

func run() error {
	var nodes list
	a := &authority{}
	flag.StringVar(&a.dir, "dir", "", "directory to write to")
	flag.StringVar(&a.server, "server", "", "URL of the API server inside the lab")
	san := flag.String("san", "", "names and addresses of the API server, comma separated")
	flag.Var(&nodes, "node", "NAME=IP of a node (repeatable)")
	flag.Parse()
	if a.dir == "" || a.server == "" {
		return fmt.Errorf("usage: pki -dir DIR -server URL -san IP,DNS,... [-node NAME=IP ...]")
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", a.dir, err)
	}
	if err := a.sign("ca", pkix.Name{CommonName: "fairlead-lab-ca"}, nil); err != nil {
		return err
	}
	masters := []string{"system:masters"}
	type pair struct {
		name    string
		subject pkix.Name
		san     []string
		config  bool
	}
	pairs := []pair{
		{"apiserver", pkix.Name{CommonName: "kube-apiserver"}, strings.Split(*san, ","), false},
		{"apiserver-kubelet", pkix.Name{CommonName: "apiserver-kubelet", Organization: masters}, nil, false},
		{"front-proxy", pkix.Name{CommonName: "front-proxy"}, nil, false},
		{"admin", pkix.Name{CommonName: "admin", Organization: masters}, nil, true},
		{"kcm", pkix.Name{CommonName: "system:kube-controller-manager"}, nil, true},
		{"scheduler", pkix.Name{CommonName: "system:kube-scheduler"}, nil, true},
		{"proxy", pkix.Name{CommonName: "system:kube-proxy"}, nil, true},
	}
	for _, n := range nodes {
		name, ip, _ := strings.Cut(n, "=")
		pairs = append(pairs, pair{name, pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}, []string{name, ip}, true})
	}
	for _, p := range pairs {
		if err := a.sign(p.name, p.subject, p.san); err != nil {
			return err
		}
		if p.config {
			if err := a.kubeconfig(p.name); err != nil {
				return err
			}
		}
	}
	return a.serviceAccountKey()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pki:", err)
		os.Exit(1)
	}
}
