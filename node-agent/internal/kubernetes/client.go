// Package kubernetes reads and writes the API server with a small client of its own: only the groups that the agent uses
// are linked, and what it watches is trimmed before it is kept.
package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
)

// Scheme knows exactly the groups that the agent uses.
var Scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme,
		coordinationv1.AddToScheme, ciliumv2.AddToScheme} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

var codecs = serializer.NewCodecFactory(Scheme)

// parameters encodes list, watch and write options.
var parameters = runtime.NewParameterCodec(Scheme)

// Client talks to the API server.
type Client struct {
	host string
	core, discovery, networking,
	coordination, cilium *rest.RESTClient
	raw *rest.RESTClient
	log *slog.Logger
}

// Options of a Client.
type Options struct {
	// Host and Port of the API server; where empty the service address that the kubelet puts into the environment.
	Host string
	Port int
	// Version goes into the user agent.
	Version string
	Log     *slog.Logger
}

// NewInCluster makes a client with the pod's service account. It does not connect.
func NewInCluster(o Options) (*Client, error) {
	if o.Host != "" {
		// rest.InClusterConfig reads these; an explicit address is for clusters where nothing translates services yet.
		os.Setenv("KUBERNETES_SERVICE_HOST", o.Host)
		os.Setenv("KUBERNETES_SERVICE_PORT", strconv.Itoa(o.Port))
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the service account: %w", err)
	}
	c.Host = "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	c.UserAgent = "fairlead-agent/" + o.Version
	return New(c, o.Log)
}

// New makes a client for any configuration.
func New(c *rest.Config, log *slog.Logger) (*Client, error) {
	c = rest.CopyConfig(c)
	c.QPS, c.Burst = 200, 400
	c.NegotiatedSerializer = codecs.WithoutConversion()
	// A dead connection has to be noticed by the watches; HTTP/2 pings of client-go take 45 s, which is fine here because
	// traffic does not depend on it.
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("setting up the API client: %w", err)
	}
	out := &Client{host: c.Host, log: log}
	for _, group := range []struct {
		target  **rest.RESTClient
		version schema.GroupVersion
		binary  bool
	}{
		{&out.core, corev1.SchemeGroupVersion, true}, {&out.discovery, discoveryv1.SchemeGroupVersion, true},
		{&out.networking, networkingv1.SchemeGroupVersion, true}, {&out.coordination, coordinationv1.SchemeGroupVersion, true},
		{&out.cilium, ciliumv2.GroupVersion, false},
	} {
		config := rest.CopyConfig(c)
		config.GroupVersion = &group.version
		config.APIPath = "/apis"
		if group.version.Group == "" {
			config.APIPath = "/api"
		}
		if group.binary {
			config.ContentType = "application/vnd.kubernetes.protobuf"
			config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		}
		if *group.target, err = rest.RESTClientForConfigAndClient(config, client); err != nil {
			return nil, fmt.Errorf("setting up the API client for %s: %w", group.version, err)
		}
	}
	out.raw = out.cilium
	return out, nil
}

// Host is the API server's URL.
func (c *Client) Host() string { return c.host }

// Resource says where objects of a type are.
type Resource struct {
	Group     schema.GroupVersion
	Name      string
	Namespace string
}

func (c *Client) of(group schema.GroupVersion) *rest.RESTClient {
	switch group.Group {
	case corev1.GroupName:
		return c.core
	case discoveryv1.GroupName:
		return c.discovery
	case networkingv1.GroupName:
		return c.networking
	case coordinationv1.GroupName:
		return c.coordination
	default:
		return c.cilium
	}
}

// requestTimeout of everything but watches.
const requestTimeout = 5 * time.Second

// Get reads one object into out.
func (c *Client) Get(ctx context.Context, r Resource, name string, out runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.of(r.Group).Get().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).Name(name).Do(ctx).Into(out)
}

// Create writes a new object; in is replaced by what the server made of it.
func (c *Client) Create(ctx context.Context, r Resource, in runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.of(r.Group).Post().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).Body(in).Do(ctx).Into(in)
}

// Update replaces an object; its resourceVersion has to be the server's.
func (c *Client) Update(ctx context.Context, r Resource, name string, in runtime.Object, subresource ...string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.of(r.Group).Put().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).Name(name).
		SubResource(subresource...).Body(in).Do(ctx).Into(in)
}

// MergePatch sends a JSON merge patch.
func (c *Client) MergePatch(ctx context.Context, r Resource, name string, patch []byte, subresource ...string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.of(r.Group).Patch(types.MergePatchType).NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).Name(name).
		SubResource(subresource...).Body(patch).Do(ctx).Error()
}

// Delete removes an object; uid, where not empty, has to be the object's.
func (c *Client) Delete(ctx context.Context, r Resource, name string, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := &metav1.DeleteOptions{}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	return c.of(r.Group).Delete().NamespaceIfScoped(r.Namespace, r.Namespace != "").Resource(r.Name).Name(name).Body(options).Do(ctx).Error()
}

// Alive asks the API server whether it is there.
func (c *Client) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.raw.Get().AbsPath("/readyz").Do(ctx).Error()
}

// Served tells whether the API server serves a resource.
func (c *Client) Served(ctx context.Context, r Resource) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.of(r.Group).Get().Resource(r.Name).VersionedParams(&metav1.ListOptions{Limit: 1}, parameters).Do(ctx).Error()
}
