#!/bin/sh
# The fluid as a user types it. From the root of the tree:  sh tests/test_cli_flow.sh ./diffinv
# Its fields are those of tests/vectors.

# shellcheck source=tests/cli.sh
. tests/cli.sh
V=$ROOT/tests/vectors


# field FILE SHAPE COUNT NAN: a field of 0.25; element NAN is NaN
field() {
    {
        printf '\223NUMPY\001\000\166\000%-117s\n' \
            "{'descr': '<f4', 'fortran_order': False, 'shape': ($2), }"
        i=0
        while [ $i -lt "$3" ]; do
            if [ $i -eq "$4" ]; then printf '\000\000\300\177'; else printf '\000\000\200\076'; fi
            i=$((i + 1))
        done
    } >"$1"
}
P="-p navier_stokes"

# shellcheck disable=SC2086
{
good "list" "$D" list problems --defaults
holds out '^navier_stokes .*exact adjoint'
holds out 'InverseBench: 2, 4, 8'

# The official program's numbers
good "op" "$D" op $P sub=1 -i "$V/flow16.x.npy" -o y.npy
good "eval" "$D" eval y.npy "$V/flow16.y.npy"
true_that "the official answer" "$(column relative_l2) < 1e-5"
good "derivative" "$D" op $P time=0.25 -i "$V/flow16.x.npy" -o y.npy --vjp "$V/flow16.v.npy" \
    --gx gx.npy
good "eval" "$D" eval gx.npy "$V/flow16.gx.npy"
true_that "the official derivative" "$(column relative_l2) < 1e-5"
good "kept little" "$D" op $P time=0.25 keep=4 -i "$V/flow16.x.npy" -o y.npy \
    --vjp "$V/flow16.v.npy" --gx gx4.npy
same "keep= changes no bit" gx.npy gx4.npy
good "fixed step" "$D" op $P sub=4 dt=0.01 -i "$V/flow32.x.npy" -o y.npy
good "eval" "$D" eval y.npy "$V/flow32.dt.y.npy"
true_that "the official fixed steps" "$(column relative_l2) < 1e-5"

# Measured and solved with a Gaussian prior
field mean.npy "1, 16, 16" 256 -1
cp mean.npy var.npy
good "measure" "$D" measure -w none $P sigma=0.1 -i "$V/flow16.x.npy" -o y.npy
holds y.npy.run '^problem=navier_stokes$'
holds y.npy.run '^problem.re=200$'
for solver in "dps steps=4 scale=0.01" "cps steps=3 n=17" "scg steps=3 n=17"; do
    good "solve $solver" "$D" solve -w gauss:mean.npy,var.npy -y y.npy -s $solver \
        --truth "$V/flow16.x.npy" -o s.npy
    true_that "a finite error" "$(column field_error) > 0 && $(column field_error) < 1000"
done
good "repeat" "$D" solve @s.npy.run -q -o s2.npy
same "a record repeats the run" s.npy s2.npy

# Refusals
I="-i $V/flow32.x.npy -o x.npy"
bad 1 "sub=3 does not divide" "$D" op $P sub=3 $I
bad 1 "re=-1 is out of range" "$D" op $P re=-1 $I
bad 1 "time=-1 is out of range" "$D" op $P time=-1 $I
bad 1 "give adaptive, batch or a positive number" "$D" op $P dt=ten $I
bad 1 "give adaptive, batch or a positive number" "$D" op $P dt=-2 $I
bad 1 "at most 2000000 steps" "$D" op $P dt=1e-9 $I
bad 1 "did you mean 'forcing'" "$D" op $P forcng=1 $I
bad 4 "unstable: NaN or infinity in step" "$D" op $P dt=1 time=100 scale=400 $I
bad 4 "the field is too large" "$D" op $P scale=100000 $I
bad 2 "3 channels: give the vorticity alone" "$D" op $P -i "$V/flow_batch.x.npy" -o x.npy
field odd.npy "1, 15, 15" 225 -1
bad 2 "15x15: it must be square with an even side" "$D" op $P -i odd.npy -o x.npy
field oblong.npy "1, 16, 8" 128 -1
bad 2 "16x8: it must be square" "$D" op $P -i oblong.npy -o x.npy
field hurt.npy "1, 16, 16" 256 100
bad 4 "NaN or infinity" "$D" op $P -i hurt.npy -o x.npy
}

echo "$pass passed, $fail failed"
[ $fail = 0 ]
