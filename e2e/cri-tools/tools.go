//go:build tools

// Package critools pins the programs of cri-tools that the end-to-end tests use, and the runner of its suite.
package critools

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
