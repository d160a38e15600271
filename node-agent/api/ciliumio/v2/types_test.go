package v2_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	v2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/api/ciliumio/v2alpha1"
	"fairlead.dev/node-agent/api/crds"
)

// Nil peers are "anybody" and empty ones "nobody": a client that mixes them up opens or closes a pod.
func TestNilAndEmptySurviveDecodingAndEncoding(t *testing.T) {
	document := `{"metadata":{"name":"p"},"spec":{"endpointSelector":{},"ingress":[{},{"fromEndpoints":[]},{"fromEndpoints":[{}]}],"egress":[]}}`
	var policy v2.CiliumNetworkPolicy
	if err := json.Unmarshal([]byte(document), &policy); err != nil {
		t.Fatal(err)
	}
	check := func(p *v2.CiliumNetworkPolicy) {
		t.Helper()
		in := p.Spec.Ingress
		if in[0].FromEndpoints != nil || in[1].FromEndpoints == nil || len(in[1].FromEndpoints) != 0 || len(in[2].FromEndpoints) != 1 {
			t.Errorf("peers are %#v", in)
		}
		if p.Spec.Egress == nil || p.Spec.IngressDeny != nil || p.Spec.EndpointSelector == nil || p.Spec.NodeSelector != nil {
			t.Errorf("sections are %#v", p.Spec)
		}
	}
	check(&policy)
	check(policy.DeepCopy())
	encoded, err := json.Marshal(&policy)
	if err != nil {
		t.Fatal(err)
	}
	var again v2.CiliumNetworkPolicy
	if err := json.Unmarshal(encoded, &again); err != nil {
		t.Fatal(err)
	}
	check(&again)
	if !reflect.DeepEqual(policy, again) {
		t.Errorf("wrote %s", encoded)
	}
}

// The corpus of the policy engine goes through the typed client's types without losing anything.
func TestCorpusSurvivesTheTypes(t *testing.T) {
	files, err := filepath.Glob("../../../policy/testdata/valid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "kind: NetworkPolicy") {
			continue
		}
		document, err := yaml.YAMLToJSONStrict(content)
		if err != nil {
			t.Fatal(err)
		}
		var policy v2.CiliumNetworkPolicy
		if err := json.Unmarshal(document, &policy); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		encoded, err := json.Marshal(&policy)
		if err != nil {
			t.Fatal(err)
		}
		var before, after map[string]any
		if err := json.Unmarshal(document, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(encoded, &after); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"spec", "specs"} {
			if !reflect.DeepEqual(before[key], after[key]) {
				t.Errorf("%s: %s\nwas   %v\nis    %v", file, key, before[key], after[key])
			}
		}
	}
}

func TestSchemeKnowsTheKinds(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v2.AddToScheme, v2alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	for version, kinds := range map[string][]string{
		"v2": {"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumEndpoint", "CiliumIdentity", "CiliumNode",
			"CiliumLoadBalancerIPPool", "CiliumCIDRGroup"},
		"v2alpha1": {"CiliumL2AnnouncementPolicy"},
	} {
		for _, kind := range kinds {
			for _, name := range []string{kind, kind + "List"} {
				if _, err := scheme.New(schema.GroupVersionKind{Group: "cilium.io", Version: version, Kind: name}); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// What kubectl shows is part of the interface; operators and their scripts know these columns.
func TestDefinitionsHaveTheColumnsAndNames(t *testing.T) {
	manifests, err := crds.All()
	if err != nil {
		t.Fatal(err)
	}
	type version struct {
		Name    string `json:"name"`
		Storage bool   `json:"storage"`
		Served  bool   `json:"served"`
		Columns []struct {
			Name     string `json:"name"`
			Priority int    `json:"priority"`
		} `json:"additionalPrinterColumns"`
	}
	type definition struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec struct {
			Scope string `json:"scope"`
			Names struct {
				Kind       string   `json:"kind"`
				ShortNames []string `json:"shortNames"`
			} `json:"names"`
			Versions []version `json:"versions"`
		} `json:"spec"`
	}
	want := map[string]string{
		"ciliumnetworkpolicies.cilium.io":            "Namespaced cnp,ciliumnp v2 AGE,VALID",
		"ciliumclusterwidenetworkpolicies.cilium.io": "Cluster ccnp v2 AGE,VALID",
		"ciliumendpoints.cilium.io":                  "Namespaced cep,ciliumep v2 SECURITY IDENTITY,ENDPOINT STATE,IPV4,IPV6",
		"ciliumidentities.cilium.io":                 "Cluster ciliumid v2 NAMESPACE,AGE",
		"ciliumnodes.cilium.io":                      "Cluster cn,ciliumn v2 CILIUMINTERNALIP,INTERNALIP,AGE",
		"ciliumloadbalancerippools.cilium.io":        "Cluster ippools,ippool,lbippool,lbippools v2 DISABLED,CONFLICTING,IPS AVAILABLE,AGE",
		"ciliumcidrgroups.cilium.io":                 "Cluster ccg v2 ",
		"ciliuml2announcementpolicies.cilium.io":     "Cluster l2announcement v2alpha1 AGE",
	}
	for _, m := range manifests {
		var d definition
		if err := yaml.Unmarshal(m.YAML, &d); err != nil {
			t.Fatalf("%s: %v", m.Name, err)
		}
		for _, v := range d.Spec.Versions {
			if !v.Storage {
				continue
			}
			var columns []string
			for _, c := range v.Columns {
				if c.Priority == 0 {
					columns = append(columns, strings.ToUpper(c.Name))
				}
			}
			got := d.Spec.Scope + " " + strings.Join(d.Spec.Names.ShortNames, ",") + " " + v.Name + " " + strings.Join(columns, ",")
			if got != want[d.Metadata.Name] {
				t.Errorf("%s is %q, want %q", d.Metadata.Name, got, want[d.Metadata.Name])
			}
			delete(want, d.Metadata.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("not defined: %v", want)
	}
}
