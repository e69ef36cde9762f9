#!/bin/bash
# A search on SLURM, which goes on in the next job when this one's time is up: `sbatch cluster/slurm.sh`.
# Lines with «fill in» are yours. Tried with stand-ins for SLURM, and not on SLURM itself yet.
#SBATCH --job-name=splitpoint --nodes=3 --ntasks-per-node=1 --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120 --requeue --open-mode=append
set -euo pipefail

cd "${SPLITPOINT:-/common/splitpoint}"  # fill in: the checkout, in a folder that all hosts share
launch=(splitpoint launch "${SPACE:-full.yaml}" --data "${DATA:-/common/data/prepared}" --study "${STUDY:-full}")  # fill in
export SPLITPOINT_STORAGE="${SPLITPOINT_STORAGE:-journal://$PWD/runs/${STUDY:-full}.journal}"  # or PostgreSQL's URL

export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_gcs_rpc_server_reconnect_timeout_s=15
ray get-auth-token --generate >/dev/null  # ~/.ray/auth_token; the home folder is common to the hosts
chmod 600 ~/.ray/auth_token

# This script runs on the job's first host. A port of the job's own lets two jobs of yours share a network.
head=$(hostname -I | awk '{print $1}')
port=$((20000 + ${SLURM_JOB_ID:-0} % 10000))
ray start --head --block --node-ip-address="$head" --port=$port --dashboard-host=127.0.0.1 \
    --object-store-memory=268435456 --disable-usage-stats >"ray-${SLURM_JOB_ID:-0}.log" 2>&1 &
ray=$!
others=$((SLURM_NNODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes=$others --ntasks=$others --exclude="$(hostname -s)" \
        ray start --block --address="$head:$port" --object-store-memory=268435456 >>"ray-${SLURM_JOB_ID:-0}.log" 2>&1 &
    workers=$!
fi
trap 'kill -TERM ${workers:+"$workers"} "$ray" 2>/dev/null || true; wait || true' EXIT

# The search starts with the hosts that are there; those that come later take trials too.
for _ in $(seq 60); do
    ray status --address="$head:$port" >/dev/null 2>&1 && break
    sleep "${PAUSE:-2}"
done

"${launch[@]}" --address "$head:$port" &
driver=$!
out_of_time=
# SLURM sends TERM to this shell 120 s before the end; the search stops at its last checkpoint, with exit code 143.
trap 'out_of_time=yes; kill -TERM "$driver" 2>/dev/null' TERM
code=0
wait "$driver" || code=$?
if [ -n "$out_of_time" ]; then  # the trap ended the wait above, not the search
    code=0
    wait "$driver" || code=$?
    if [ "$code" = 143 ]; then
        echo "out of time: the job is queued again, and goes on from here"
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
