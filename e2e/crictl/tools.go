//go:build tools

// Package tools pins the crictl that the end-to-end tests use.
package tools

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
