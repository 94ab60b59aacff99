// Command brokers installs real brokers, or starts them until it is interrupted.
//
//	go run ./internal/brokers/cmd/brokers install rabbit --version 4.3
//	go run ./internal/brokers/cmd/brokers up rabbit --version 4.3 --nodes 3
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-queue/holdfast/internal/brokers"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		return 1
	}
	return 0
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "brokers", Short: "Start real brokers without containers", SilenceUsage: true}
	var o brokers.RabbitOptions
	install := &cobra.Command{
		Use: "install rabbit", Short: "unpack a broker into the cache, unless it is there", Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"rabbit"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			what, err := brokers.InstallRabbit(cmd.Context(), o.Version)
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), what)
			}
			return err
		},
	}
	up := &cobra.Command{
		Use: "up rabbit", Short: "start a broker, print its addresses for a shell, stop it when interrupted", Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"rabbit"},
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	for _, c := range []*cobra.Command{install, up} {
		c.Flags().StringVar(&o.Version, "version", "4.3", "4.3 or 4.0")
	}
	up.Flags().IntVar(&o.Nodes, "nodes", 1, "1, or 3 for a cluster")
	up.Flags().StringVar(&o.Dir, "dir", "", "keep the data in this directory")
	up.Flags().BoolVar(&o.Fast, "fast", false, "keep the data in memory")
	root.AddCommand(install, up)
	return root
}

func up(ctx context.Context, w io.Writer, o brokers.RabbitOptions) error {
	c, err := brokers.StartRabbit(ctx, o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "AMQP_URL='%s'\nAMQP_URLS='%s'\nMANAGEMENT_URL='%s'\nBROKER_VERSION='%s'\nBROKER_HOW='%s'\n",
		c.URL(), strings.Join(c.URLs(), " "), c.Management(), c.Version(), c.How())
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, c.Close())
}
