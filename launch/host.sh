#!/usr/bin/env bash
# A run on this machine, one process for all of its devices, from the code of a commit: the checkout may change meanwhile.
#   bash launch/host.sh --extra=cuda --config=configs/NAME.py --workdir=DIR [--run] [FLAGS ...]
# Its own flags: --extra=tpu|cuda|cpu; --devices=K that there must be.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

extra=''
read_flags "extra devices" "$@"
want extra
from_here

logdir=$out/logs
bundle
cat >"$out/run.sh" <<'END'
#!/usr/bin/env bash
# In the foreground: Ctrl-C, or SIGTERM, saves and ends it.
#   bash run.sh
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/bundle/on_host.sh" run
END
print_and_run bundle/on_host.sh bundle/hosts.env run.sh
