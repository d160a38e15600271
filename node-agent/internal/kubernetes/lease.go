package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lease is a duty that one agent of the cluster has at a time.
type Lease struct {
	Client          *Client
	Namespace, Name string
	// Holder is this agent's name.
	Holder string
	// Duration after which another may take over; it is renewed at a third of it.
	Duration time.Duration
	Log      *slog.Logger

	// observed is when the present holder's renewal was first seen here: clocks of nodes are not compared.
	observed  time.Time
	renewedAt string
}

// Run calls duty, whose context ends when the lease is lost, again and again until ctx ends.
func (l *Lease) Run(ctx context.Context, duty func(context.Context)) {
	var renewed time.Time
	var stopDuty func()
	stop := func() {
		if stopDuty != nil {
			stopDuty()
			stopDuty = nil
		}
	}
	defer stop()
	tick := time.NewTicker(l.Duration / 3)
	defer tick.Stop()
	for {
		held, err := l.renew(ctx)
		switch {
		case held:
			renewed = time.Now()
			if stopDuty == nil {
				l.Log.Info("holding the lease", "lease", l.Name)
				stopDuty = start(ctx, duty)
			}
		case err == nil || time.Since(renewed) > l.Duration*2/3:
			stop()
		}
		if err != nil && ctx.Err() == nil {
			l.Log.Debug("the lease was not renewed", "lease", l.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// start runs duty; the function that it returns ends it and waits for its end.
func start(ctx context.Context, duty func(context.Context)) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); duty(ctx) }()
	return func() { cancel(); <-done }
}

func (l *Lease) renew(ctx context.Context) (held bool, err error) {
	r := Resource{Group: coordinationv1.SchemeGroupVersion, Name: "leases", Namespace: l.Namespace}
	now := metav1.NowMicro()
	seconds := int32(l.Duration / time.Second)
	var lease coordinationv1.Lease
	err = l.Client.Get(ctx, r, l.Name, &lease)
	if errors.IsNotFound(err) {
		lease = coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: l.Name, Namespace: l.Namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "fairlead"}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &l.Holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
		}
		if err := l.Client.Create(ctx, r, &lease); err != nil && !errors.IsAlreadyExists(err) {
			return false, fmt.Errorf("creating lease %s: %w", l.Name, err)
		} else if err != nil {
			return false, nil
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading lease %s: %w", l.Name, err)
	}
	mine := lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == l.Holder
	if !mine {
		stamp := lease.ResourceVersion
		if stamp != l.renewedAt {
			l.renewedAt, l.observed = stamp, time.Now()
		}
		empty := lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == ""
		if !empty && time.Since(l.observed) < l.Duration {
			return false, nil
		}
		transitions := int32(1)
		if lease.Spec.LeaseTransitions != nil {
			transitions += *lease.Spec.LeaseTransitions
		}
		lease.Spec.HolderIdentity, lease.Spec.AcquireTime, lease.Spec.LeaseTransitions = &l.Holder, &now, &transitions
	}
	lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds = &now, &seconds
	if err := l.Client.Update(ctx, r, l.Name, &lease); errors.IsConflict(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("renewing lease %s: %w", l.Name, err)
	}
	return true, nil
}
