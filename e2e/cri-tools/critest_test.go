package critools

import (
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"sigs.k8s.io/cri-tools/pkg/framework"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)

func init() {
	framework.RegisterFlags()
}

// TestCRI is cri-tools' validation suite. Its own program, critest, looks for configuration files of the machine, and cannot be
// built as a test of another module.
func TestCRI(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CRI validation")
}
