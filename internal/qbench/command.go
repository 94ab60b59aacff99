package qbench

import (
	"fmt"

	"github.com/spf13/cobra"
)

const rootHelp = `qbench runs a workload on a message broker, with real worker processes of which it kills some, and says what the
broker is worth as a work queue: whether anything was lost or ran twice, how well idle workers were used, how long
messages waited and how soon those of a dead worker came back.

Begin with "qbench run": it needs nothing but this program.
`

func newRoot(p *Program) *cobra.Command {
	root := &cobra.Command{
		Use:           "qbench",
		Short:         "Benchmark message brokers as work queues",
		Long:          rootHelp + "\n" + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := "see qbench --help"
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("did you mean %q?", near[0])
			}
			return badUsage(hint, "unknown command %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badUsage("see "+cmd.CommandPath()+" --help", "%w", err)
	})
	root.AddCommand(newRun(p), newCaps(p))
	return root
}
