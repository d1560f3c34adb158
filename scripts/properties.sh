#!/usr/bin/env bash
# Runs the property tests again and again with fresh random examples until PROPERTY_SECONDS are over.
# A failure prints the seed that repeats it and ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${PROPERTY_SECONDS:-600}))
round=0
while ((SECONDS < end)); do
  round=$((round + 1))
  seed=$((RANDOM * 32768 + RANDOM))
  echo "properties: round $round, seed $seed"
  SVETOVID_HYPOTHESIS=fuzz .venv/bin/python -m pytest -x -m hypothesis --hypothesis-seed=$seed </dev/null
done
