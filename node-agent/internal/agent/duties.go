package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/cni"
	"fairlead.dev/node-agent/internal/datapath"
	"fairlead.dev/node-agent/internal/identities"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/policy"
)

const (
	retryInterval = 2 * time.Second
	probeInterval = 10 * time.Second
	// leftoverRounds of retryInterval pass between two looks for what other networks have on the node.
	leftoverRounds = 30
	// identityGrace is how long an identity stays that no endpoint has.
	identityGrace = 5 * time.Minute
)

// duties runs what has to be done now and then, until ctx ends.
func (a *agent) duties(ctx context.Context, s *serving) {
	p, w := s.parts, s.watcher
	var wait sync.WaitGroup
	defer wait.Wait()
	if *a.config.HealthChecking {
		wait.Go(func() { p.Prober.Run(ctx, probeInterval, p.Nodes.Others) })
	}
	wait.Go(func() { a.followMasqueradeRules(ctx, p) })
	wait.Go(func() {
		w.refresh.run(ctx, func(key string) {
			var err error
			if namespace, name, isPod := strings.Cut(key, "/"); isPod {
				err = p.Endpoints.Refresh(ctx, namespace, name)
			} else {
				err = p.Endpoints.RefreshNamespace(ctx, key)
			}
			if apierrors.IsNotFound(err) || err == nil || ctx.Err() != nil {
				return
			}
			a.log.Warn("changed labels were not taken up; trying again", "of", key, "error", err)
			time.AfterFunc(retryInterval, func() { w.refresh.add(key) })
		})
	})
	lease := &kubernetes.Lease{Client: a.client, Namespace: a.Namespace, Name: "fairlead-duties", Holder: a.NodeName, Duration: 15 * time.Second, Log: a.log}
	wait.Go(func() { lease.Run(ctx, func(ctx context.Context) { a.leaderDuties(ctx, w) }) })

	abandoned := map[datapath.EndpointID]time.Time{}
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.retry(ctx, s)
		a.records.look()
		a.reportMasquerading(p)
		if round%leftoverRounds == 0 {
			a.reportLeftovers(datapath.FindLeftovers())
		}
		a.reportBandwidth(ctx, s)
		a.reportNodeHealth(p)
		if w.refusals != nil {
			a.note("refused networks", w.refusals.refresh(ctx))
		}
		a.reportDatapath(p)
		a.reportXDP(p, w.refusals)
		// A plugin that did not reach the agent while it started left its removal here.
		a.note("recorded removals", cni.ProcessTombstones(ctx, filepath.Join(a.RunDirectory, "deleted"), p.Endpoints.Detach))
		p.Endpoints.Sweep(ctx, abandoned, time.Now())
		if w.ceps.Err() == nil {
			a.note("announcements", p.Cache.SweepAnnouncements(ctx, time.Now().Add(-time.Minute)))
		}
		if round%15 == 14 {
			a.keepIdentities(ctx, s)
			keepEndpoints(s)
			a.forgetIdentities(ctx, s)
		}
	}
}

// retry does again what was refused, and says so in status.
func (a *agent) retry(ctx context.Context, s *serving) {
	p := s.parts
	report := func(name string, left int, err error) {
		if left == 0 && err == nil {
			a.components.ok(name, "in step with the cluster")
			return
		}
		message := fmt.Sprintf("%d changes are waiting", left)
		if err != nil {
			message += ": " + err.Error()
		}
		a.components.set(name, api.StateDegraded, message, "See the map pressure in status and the agent's log.")
	}
	left, err := p.Policies.Retry(ctx)
	report("policies", left, err)
	left, err = p.Cache.Retry(ctx)
	report("ipcache", left, err)
	a.note("node ports", a.followNode(ctx, s))
	left, err = p.Services.Retry(ctx)
	report("services", left, err)
	left, err = p.Nodes.Retry(ctx)
	report("nodes", left, err)
	a.reportPressure(p.Datapath.Pressure())
	if err := p.Datapath.SeesKernelDrops(); err != nil {
		a.components.set("kernel-drops", api.StateOff, "what the kernel itself drops of pods' packets is not seen: "+err.Error(), "")
	} else {
		a.components.ok("kernel-drops", "the kernel's own drops of pods' packets are among the flows")
	}
	if left := p.Endpoints.Retry(ctx); left > 0 {
		a.components.set("endpoints", api.StateDegraded, fmt.Sprintf("%d CiliumEndpoints are not written yet", left), "Check that the API server answers.")
	} else {
		a.components.ok("endpoints", strconv.Itoa(p.Endpoints.Count()))
	}
	var behind []string
	for _, i := range s.watcher.all {
		if err := i.Err(); err != nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			behind = append(behind, i.Name()+" ("+err.Error()+")")
		}
	}
	if len(behind) > 0 {
		a.components.set("kubernetes", api.StateDegraded, "the API server does not answer for "+strings.Join(behind, ", ")+"; traffic goes on with what is known", "Check that "+a.client.Host()+" can be reached from this node.")
	} else {
		a.components.ok("kubernetes", a.client.Host())
	}
}

// reportPressure says which maps are nearly full; the fullest come first.
func (a *agent) reportPressure(all []datapath.MapPressure) {
	var full, fixes []string
	for _, m := range all {
		if m.Share() < datapath.PressureWarning {
			continue
		}
		text := fmt.Sprintf("%s %.0f %% of %d", m.Name, m.Share()*100, m.MaxEntries)
		switch {
		case m.Problem != "":
			text += " and cannot grow: " + m.Problem
			fixes = append(fixes, "Raise the size of "+m.Name+" in the configuration (bpf.*), or give the node more memory.")
		case m.Evicts:
			text += ", beyond which the connections that were silent for longest are forgotten"
			fixes = append(fixes, "Raise bpf.mapDynamicSizeRatio or the table's own size in the configuration.")
		}
		full = append(full, text)
	}
	if len(full) > 0 {
		a.components.set("maps", api.StateDegraded, strings.Join(full, "; "), strings.Join(fixes, " "))
		return
	}
	message := "none is fuller than 80 %"
	if len(all) > 0 {
		message = fmt.Sprintf("the fullest is %s with %.0f %%", all[0].Name, all[0].Share()*100)
	}
	a.components.ok("maps", message)
}

// keepIdentities creates again what somebody deleted although endpoints of this node have it.
func (a *agent) keepIdentities(ctx context.Context, s *serving) {
	for _, e := range s.parts.Endpoints.List() {
		name := strconv.FormatUint(uint64(e.Identity), 10)
		if _, ok := s.watcher.ids.Get("", name); ok {
			continue
		}
		labels, err := policy.ParseLabels(e.Labels)
		if err != nil {
			continue
		}
		object := &ciliumv2.CiliumIdentity{ObjectMeta: metav1.ObjectMeta{Name: name}, SecurityLabels: labels.Map()}
		if err := a.client.Create(ctx, identities.Resource, object); err != nil && !apierrors.IsAlreadyExists(err) {
			a.log.Warn("an identity that was deleted could not be created again", "identity", name, "error", err)
		}
	}
}

// keepEndpoints has the CiliumEndpoints written again that somebody deleted although their pods live.
func keepEndpoints(s *serving) {
	w := s.watcher
	for _, e := range s.parts.Endpoints.List() {
		if state, _ := s.parts.Endpoints.State(e.ID); state != "ready" {
			continue
		}
		if _, ok := w.ceps.Get(e.Namespace, e.PodName); ok {
			continue
		}
		if pod, ok := w.pods.Get(e.Namespace, e.PodName); ok && isPod(pod, e.PodUID) {
			s.parts.Endpoints.Again(e.ID)
		}
	}
}

// forgetIdentities drops those whose object went while an address still had them.
func (a *agent) forgetIdentities(ctx context.Context, s *serving) {
	for _, i := range s.parts.Registry.All() {
		if i.ID.IsReserved() {
			continue
		}
		// Nearly all have theirs, so that this is asked first.
		if _, ok := s.watcher.ids.Get("", strconv.FormatUint(uint64(i.ID), 10)); ok {
			continue
		}
		if !s.parts.Cache.Uses(uint32(i.ID)) && !s.parts.Endpoints.Has(i.ID) {
			s.parts.Registry.Forget(i.ID)
			a.note("identity", s.parts.Policies.RemoveIdentity(ctx, i.ID))
		}
	}
}

// leaderDuties are those that one agent of the cluster has: policies' conditions and the collection of identities.
func (a *agent) leaderDuties(ctx context.Context, w *watcher) {
	collector := identities.Collector{Grace: identityGrace}
	conditions := time.NewTicker(5 * time.Second)
	collect := time.NewTicker(30 * time.Second)
	defer conditions.Stop()
	defer collect.Stop()
	a.writeConditions(ctx, w)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.policyChanged:
			a.writeConditions(ctx, w)
		case <-conditions.C:
			a.writeConditions(ctx, w)
		case <-collect.C:
			used := map[string]struct{}{}
			for _, e := range w.ceps.List() {
				if e.Status.Identity != nil {
					used[strconv.FormatInt(e.Status.Identity.ID, 10)] = struct{}{}
				}
			}
			for _, e := range w.parts.Endpoints.List() {
				used[strconv.FormatUint(uint64(e.Identity), 10)] = struct{}{}
			}
			for _, i := range collector.Collect(time.Now(), w.ids.List(), used) {
				if id, ok := identities.IDOf(i); ok && w.parts.Endpoints.Has(id) {
					continue // a pod that is being made took it meanwhile
				}
				if err := a.client.Delete(ctx, identities.Resource, i.Name, i.UID); err != nil && !apierrors.IsNotFound(err) {
					a.log.Warn("an unused identity was not deleted", "identity", i.Name, "error", err)
				} else {
					a.log.Info("deleted an identity that no pod has", "identity", i.Name)
				}
			}
		}
	}
}
