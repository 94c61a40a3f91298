# shellcheck shell=bash disable=SC2034  # many variables are flags, read by the script that sources this
# Sourced by the scripts that start jobs elsewhere. Each makes files in a folder, prints them, and runs them only with --run:
#   bundle/        what travels: code.tar.gz (the code of one commit), on_host.sh (what a host does), hosts.env (its environment)
#   run.sh         what this machine does: ship, start, watch, stop; `bash run.sh watch` takes up the watch again
#   logs/          one log for each host
# Flags that all of them take, as --flag=VALUE:
#   --config=FILE.py[:VARIANT]  of the shipped code       --workdir=DIR  of the run, the same for all hosts: on a disk that all mount
#   --config.a.b=VALUE          goes to training          --name=NAME    of the job; by default the config's
#   --out=FOLDER                by default workdirs/launch/NAME          --run  run it, too
#   --allow-dirty               ship changes that no commit holds; the shipped version ends with + then
#   --endpoints=URL,...         judges that must answer before training starts
#   --pass_env=NAME,...         variables of this shell that training needs, such as a judge's token; their values go into no file
#   --token_env=NAME            which of them is the judges' token
#   --restarts=100 --failures=5 --deadline=600 --prepare=COMMAND  see the settings of bundle/on_host.sh

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

common_flags="config workdir name out endpoints pass_env token_env restarts failures deadline prepare"
config='' workdir='' name='' out='' endpoints='' pass_env='' token_env='' prepare=''
restarts=100 failures=5 deadline=600
run=false allow_dirty=false overrides=()
zone='' project='' platform=host extra=cpu port=8482 devices='' longest_pause=300 logdir=logs

# read_flags "MORE FLAGS" ARGUMENT...: --flag=VALUE sets the variable `flag`.
read_flags() {
    local known="$common_flags $1" argument flag
    shift
    for argument in "$@"; do
        flag=${argument%%=*}
        flag=${flag#--}
        case $argument in
            --run) run=true ;;
            --allow-dirty) allow_dirty=true ;;
            --config.*=*) overrides+=("$argument") ;;
            --help | -h)
                awk 'FNR > 1 && !/^#/ { nextfile } FNR > 1 && !/shellcheck/ { sub(/^# ?/, ""); print }' "$0" "$root/launch/pod.sh"
                exit 0
                ;;
            --*=*)
                [[ " $known " == *" $flag "* ]] || fail "unknown flag --$flag; the flags are ${known// /, }, run, allow-dirty and config.a.b"
                printf -v "$flag" %s "${argument#*=}"
                ;;
            *) fail "$argument is no flag; write --flag=VALUE, and see bash $0 --help" ;;
        esac
    done
    [[ -n $config ]] || fail "which run? --config=configs/NAME.py[:VARIANT]"
    [[ -n $workdir ]] || fail "where does the run live? --workdir=DIR, the same for all hosts"
    [[ -n $name ]] || name=$(basename "${config%%.py*}" | tr '_[:upper:]' '-[:lower:]')
    # Kubernetes names jobs, pods and their network names after it, and 63 letters must hold them all (xpk limits it likewise).
    [[ $name =~ ^[a-z]([-a-z0-9]{0,26}[a-z0-9])?$ ]] || fail "--name=$name: at most 28 lower-case letters, digits and dashes, a letter first"
    [[ -z $token_env || ",$pass_env," == *",$token_env,"* ]] || pass_env=${pass_env:+$pass_env,}$token_env
    for flag in ${pass_env//,/ }; do
        [[ -n ${!flag:-} ]] || fail "--pass_env: this shell has no variable $flag; export it first"
    done
    [[ -n $out ]] || out=$root/workdirs/launch/$name
    [[ $out == /* ]] || out=$PWD/$out
}

# want FLAG...: those that have no default.
want() {
    local flag
    for flag in "$@"; do
        [[ -n ${!flag} ]] || fail "--$flag=VALUE is missing; see bash $0 --help"
    done
}

# from_here: a workdir as one sees it here, for jobs that see the same disk.
from_here() {
    [[ $workdir == /* || $workdir == *://* ]] || workdir=$PWD/$workdir
}

# accelerator TYPE: sets gke_accelerator, topology, chips and devices of a host, hosts and runtime. The number in a type counts cores:
# one a chip on v5e and v6e, two on v5p and tpu7x. Sources: the Cloud TPU documentation, and xpk's system_characteristics.py.
accelerator() {
    local number=${1##*-} total
    case $1 in
        v5litepod-*) gke_accelerator=tpu-v5-lite-podslice runtime=${runtime:-v2-alpha-tpuv5-lite} total=$number ;;
        v6e-*) gke_accelerator=tpu-v6e-slice runtime=${runtime:-v2-alpha-tpuv6e} total=$number ;;
        v5p-*) gke_accelerator=tpu-v5p-slice runtime=${runtime:-v2-alpha-tpuv5} total=$((number / 2)) ;;
        tpu7x-*) gke_accelerator=tpu7x runtime=${runtime:-} total=$((number / 2)) ;;
        *) fail "--type=$1 is no TPU type known here; such as v5litepod-64, v6e-16, v5p-16, tpu7x-16" ;;
    esac
    case ${1%-*}:$total in
        v5litepod:1 | v6e:1) topology=1x1 ;;
        v5litepod:4 | v6e:4) topology=2x2 ;;
        v5litepod:8 | v6e:8) topology=2x4 ;;
        v5litepod:16 | v6e:16) topology=4x4 ;;
        v5litepod:32 | v6e:32) topology=4x8 ;;
        v5litepod:64 | v6e:64) topology=8x8 ;;
        v5litepod:128 | v6e:128) topology=8x16 ;;
        v5litepod:256 | v6e:256) topology=16x16 ;;
        v5p:4 | tpu7x:4) topology=2x2x1 ;;
        v5p:8 | tpu7x:8) topology=2x2x2 ;;
        v5p:16 | tpu7x:16) topology=2x2x4 ;;
        v5p:32 | tpu7x:32) topology=2x4x4 ;;
        v5p:64 | tpu7x:64) topology=4x4x4 ;;
        v5p:128 | tpu7x:128) topology=4x4x8 ;;
        v5p:256 | tpu7x:256) topology=4x8x8 ;;
        *) fail "--type=$1: no slice of $total chips is known here; add its topology to accelerator() in launch/pod.sh" ;;
    esac
    # Slices of up to eight chips of v5e and v6e are one host; all larger ones, and v5p and tpu7x, have four chips on each host.
    chips=4
    [[ $1 != v5litepod-* && $1 != v6e-* ]] || ((total > 8)) || chips=$total
    hosts=$((total / chips))
    devices=$chips
    [[ $1 != tpu7x-* ]] || devices=$((chips * 2)) # jax sees each of the two halves of a chip
}

# on_tpu_vms: what the scripts share that reach TPU VMs through gcloud.
on_tpu_vms() {
    [[ $workdir == /* ]] || fail "--workdir=$workdir: give a path from the root, on a disk that all workers mount"
    # The image of TPU VMs is Ubuntu 22.04 with Python 3.10; 3.11 is in its own archive.
    [[ -n $prepare ]] ||
        prepare='command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy python3.11 python3.11-venv; }'
    platform=tpu_vm extra=tpu poll=30 patience=600
    gcloud_flags=$(words --quiet "--zone=$zone" ${project:+"--project=$project"})
}

# fill TEMPLATE FILE: copies launch/templates/TEMPLATE; its settings take the values of the variables here, its comments stay.
fill() {
    local line setting value comment before inside=false
    while IFS= read -r line; do
        case $line in
            '# --- settings') inside=true ;;
            '# --- end of settings') inside=false ;;
        esac
        if $inside && [[ $line =~ ^([a-z_]+)=(\(.*\)|[^ ]*)(\ *\#.*)?$ ]]; then
            setting=${BASH_REMATCH[1]}
            value=${!setting} comment=${BASH_REMATCH[3]#*#}
            [[ ${BASH_REMATCH[2]} == \(* ]] || value=$(quoted "$value")
            value="$setting=$value"
            before=${line%%#*}
            [[ -z $comment ]] && line=$value || printf -v line '%-*s#%s' "${#before}" "$value  " "$comment"
        fi
        printf '%s\n' "$line"
    done <"$root/launch/templates/$1" >"$2"
}

# quoted TEXT: as bash reads it back.
quoted() {
    local quote="'\\''"
    if [[ $1 =~ ^[-a-zA-Z0-9_./:=@%+]*$ ]]; then printf %s "$1"; else printf "'%s'" "${1//\'/$quote}"; fi
}

# words ARGUMENT...: a list as bash reads it, for a setting that is one.
words() {
    local list=() word
    for word in "$@"; do
        word=$(quoted "$word")
        list+=("${word:-"''"}")
    done
    printf '(%s)' "${list[*]-}"
}

# bundle: what travels to the hosts, in OUT/bundle.
bundle() {
    local tree=HEAD version index
    mkdir -p "$out/bundle" "$out/logs"
    version=$(git -C "$root" rev-parse --short=12 HEAD) || fail "$root is no git checkout; the code that is shipped must be a commit"
    if [[ -n $(git -C "$root" status --porcelain) ]]; then
        $allow_dirty || fail "$root has changes that no commit holds (git status tells); commit them, or ship them as they are: --allow-dirty"
        index=$(mktemp -u)
        GIT_INDEX_FILE=$index git -C "$root" add --all
        tree=$(GIT_INDEX_FILE=$index git -C "$root" write-tree)
        rm -f "$index"
        version+=+
    fi
    git -C "$root" cat-file -e "$tree:${config%%.py*}.py" 2>/dev/null ||
        fail "--config=$config: the code that is shipped has no such file; name it from the checkout's root, such as configs/NAME.py"
    printf '%s\n' "$version" >"$out/bundle/SHIPPED_COMMIT"
    git -C "$root" archive --format=tar "$tree" >"$out/bundle/code.tar"
    tar -rf "$out/bundle/code.tar" -C "$out/bundle" SHIPPED_COMMIT
    gzip -nf "$out/bundle/code.tar"
    rm "$out/bundle/SHIPPED_COMMIT"
    arguments=$(words "--config=$config" "--workdir=$workdir" ${overrides[@]+"${overrides[@]}"})
    fill on_host.sh "$out/bundle/on_host.sh"
    fill hosts.env "$out/bundle/hosts.env"
    echo "code: $version, $(wc -c <"$out/bundle/code.tar.gz" | tr -d ' ') bytes"
}

# print_and_run FILE...: shows the files, then runs OUT/run.sh if that was asked for.
print_and_run() {
    local file
    for file in "$@"; do
        printf '\n===== %s\n' "$out/$file"
        cat "$out/$file"
    done
    printf '\n===== '
    if $run; then
        echo "bash $out/run.sh"
        exec bash "$out/run.sh"
    fi
    echo "A dry run: nothing was started. Edit these files and run them (bash $out/run.sh), or make them anew and run them: --run"
}
