package policy

import (
	"fmt"
	"testing"
)

// largeCluster has 1,000 policies and 5,000 identities; 100 endpoints of 50 sorts run on the node.
func largeCluster(b testing.TB) *Engine {
	return clusterOf(b, 1000, 5000)
}

func clusterOf(b testing.TB, policies, identities int) *Engine {
	b.Helper()
	e := NewEngine()
	for i := range identities {
		e.AddIdentity(IdentityUserMin+NumericIdentity(i), serviceLabels(i))
	}
	for i := range 100 {
		e.AddSubject(SubjectID(i+1), serviceLabels(i%50), nil)
	}
	for i := range policies {
		if _, err := e.Upsert(servicePolicy(b, i, "80")); err != nil {
			b.Fatal(err)
		}
	}
	return e
}

func serviceLabels(i int) Labels {
	return LabelsForPod(fmt.Sprintf("ns%d", i%20), map[string]string{"app": fmt.Sprintf("app%d", i), "tier": fmt.Sprintf("t%d", i%10)},
		map[string]string{"kubernetes.io/metadata.name": fmt.Sprintf("ns%d", i%20), "team": fmt.Sprintf("team%d", i%5)}, "default", "")
}

// servicePolicy admits a tier of the namespace and one other service, and every fifth all pods of another namespace.
func servicePolicy(b testing.TB, i int, port string) Policy {
	peers := fmt.Sprintf(`{"matchLabels":{"tier":"t%d"}},{"matchLabels":{"app":"app%d","k8s:io.kubernetes.pod.namespace":"ns%d"}}`, i%10, i+1, (i+1)%20)
	if i%5 == 0 {
		peers += fmt.Sprintf(`,{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"ns%d"}}`, (i+7)%20)
	}
	return mustParse(b, fmt.Sprintf(`{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p%d","namespace":"ns%d"},
"spec":{"endpointSelector":{"matchLabels":{"app":"app%d"}},"ingress":[{"fromEndpoints":[%s],"toPorts":[{"ports":[{"port":%q,"protocol":"TCP"}]}]}]}}`,
		i, i%20, i%50, peers, port))
}

// BenchmarkAddIdentity is a pod with new labels that appears and disappears somewhere in the cluster.
func BenchmarkAddIdentity(b *testing.B) {
	e := largeCluster(b)
	labels := serviceLabels(5001)
	for b.Loop() {
		e.AddIdentity(60000, labels)
		e.RemoveIdentity(60000)
	}
}

// BenchmarkUpsertPolicy is an edit of the port of one policy among 1,000.
func BenchmarkUpsertPolicy(b *testing.B) {
	e := largeCluster(b)
	editions := [2]Policy{servicePolicy(b, 7, "8080"), servicePolicy(b, 7, "80")}
	i := 0
	for b.Loop() {
		changes, err := e.Upsert(editions[i%2])
		if err != nil || len(changes) == 0 {
			b.Fatal(len(changes), err)
		}
		i++
	}
}

// BenchmarkUpsertPolicyForAll is an edit of a policy that governs every endpoint and names every pod of a namespace.
func BenchmarkUpsertPolicyForAll(b *testing.B) {
	e := largeCluster(b)
	edition := func(port string) Policy {
		return mustParse(b, fmt.Sprintf(`{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"all"},
"spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"ns3"}}],"toPorts":[{"ports":[{"port":%q}]}]}]}}`, port))
	}
	editions := [2]Policy{edition("1"), edition("2")}
	i := 0
	for b.Loop() {
		if _, err := e.Upsert(editions[i%2]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkAddSubject is a new pod on the node, of a sort that is not there yet.
func BenchmarkAddSubject(b *testing.B) {
	e := largeCluster(b)
	labels := NewLabels(append(serviceLabels(7), Label{Source: SourceK8s, Key: "version", Value: "2"})...)
	for b.Loop() {
		e.AddSubject(7000, labels, nil)
		e.RemoveSubject(7000)
	}
}

// BenchmarkAddReplica is a new pod on the node with labels like another's.
func BenchmarkAddReplica(b *testing.B) {
	e := largeCluster(b)
	for b.Loop() {
		e.AddSubject(7000, serviceLabels(7), nil)
		e.RemoveSubject(7000)
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		Parse(KindAuto, []byte(landing))
	}
}
