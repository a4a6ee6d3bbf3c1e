// One binary for a whole Kubernetes: the first argument names the component.
//
// Built by localcluster/build.py, because no release binary can be downloaded where this runs.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	_ "k8s.io/component-base/logs/json/register"
)

func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllers.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kube-proxy":
		return proxy.NewProxyCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	}
	return nil
}

func main() {
	// A link named after a component runs it; otherwise the first argument names it.
	name, args := filepath.Base(os.Args[0]), os.Args
	if name != "etcd" && command(name) == nil {
		if len(os.Args) < 2 {
			fail(name)
		}
		name, args = os.Args[1], os.Args[1:]
	}
	if name == "etcd" {
		etcdmain.Main(args)
		return
	}
	os.Args = args // kubelet and kubectl read the arguments themselves
	chosen := command(name)
	if chosen == nil {
		fail(name)
	}
	if name == "kubectl" {
		kubectlutil.CheckErr(cli.RunNoErrOutput(chosen)) // prints the errors itself, once
		return
	}
	os.Exit(cli.Run(chosen))
}

func fail(name string) {
	fmt.Fprintf(os.Stderr, "%q is no component; choose etcd, kube-apiserver, kube-controller-manager, "+
		"kube-scheduler, kube-proxy, kubelet or kubectl\n", name)
	os.Exit(2)
}
