// Pod_security reads Kubernetes manifests as JSON, one a line, and judges every pod template in them as the API server's
// own Pod Security admission does at level "restricted". It prints what is refused and then exits with 1.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

type manifest struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Template *corev1.PodTemplateSpec `json:"template"`
	} `json:"spec"`
}

func main() {
	judge, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		fail(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	judged, refused := 0, 0
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var one manifest
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			fail(err)
		}
		template := one.Spec.Template
		if template == nil {
			continue
		}
		judged++
		verdict := policy.AggregateCheckResults(judge.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec))
		if !verdict.Allowed {
			refused++
			fmt.Printf("%s %s: %s\n", strings.ToLower(one.Kind), one.Metadata.Name, verdict.ForbiddenDetail())
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
	fmt.Printf("%d pod templates, %d refused\n", judged, refused)
	if judged == 0 || refused > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
