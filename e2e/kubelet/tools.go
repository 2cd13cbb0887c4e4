//go:build tools

// Package kubelet pins the kubelet that the end-to-end tests run.
package kubelet

import (
	_ "k8s.io/kubernetes/cmd/kubelet"
)
