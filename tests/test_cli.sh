#!/bin/sh
# The command as a user types it: every verb, every refusal with its exit code, the record, the
# interrupt. From the root of the tree:  sh tests/test_cli.sh ./diffinv
# It needs weights/portraits64.unw and nothing outside the tree; its pictures are the prior's.

# shellcheck source=tests/cli.sh
. tests/cli.sh
W=$ROOT/weights/portraits64.unw
README=$ROOT/README.md


# ---- Help, lists ---------------------------------------------------------------------------

good "help" "$D" --help
holds out "solve"
good "version" "$D" --version
"$D" >out 2>err
[ $? -eq 1 ] && [ -s err ] && yes || no "no arguments: help on stderr and exit code 1"
for verb in measure solve sample eval view net op make; do
    "$D" $verb >out 2>err
    [ $? -eq 1 ] && grep -q "^diffinv $verb" err && [ ! -s out ] && yes ||
        no "$verb alone: its help on stderr and exit code 1"
done
for verb in measure solve sample eval info list view net op make selftest; do
    good "$verb --help" "$D" $verb --help
    awk 'length($0) > 80 { bad = 1 } END { exit bad || NR > 24 }' out && yes ||
        no "$verb --help is larger than a screen"
    holds out "^  diffinv $verb"
done
for what in solvers problems priors isa; do
    good "list $what" "$D" list $what --defaults
    exists out
done
good "list solvers" "$D" list solvers --defaults
holds out "^dps"
holds out "scale"
good "list problems" "$D" list problems
for p in denoise inpaint sr gblur matrix; do holds out "^$p"; done
good "list priors" "$D" list priors
holds out "^portraits64"
holds out "^gauss:MEAN.npy,COV.npy"
holds out "^mixture:WEIGHTS.npy,MEANS.npy,VARS.npy"
good "info" "$D" info -s dps --size 64x64
for word in checksum GMAC multipliers "its working bytes" licence; do holds out "$word"; done
good "info by path" "$D" info -w "$W"

# ---- The verbs, once each ------------------------------------------------------------------

good "sample" "$D" sample -s ddim steps=6 -n 1 --seed 77 -o face.png
exists face.png.run
holds face.png.run '^solver.steps=6$'
holds face.png.run '^info.weights_crc='
holds face.png.run '^cost.net=6$'
good "sample, three" "$D" sample -s ddim steps=3 eta=1 -n 3 --seed 5 -o three.npy
good "sample, one" "$D" sample -s ddim steps=3 eta=1 -n 1 --seed 5 -o one.npy
good "first of three" "$D" op -p denoise -i 'three.npy[0]' -o first.npy
same "a sample depends on its number, not on the batch" one.npy first.npy
good "sample, a grid" "$D" sample -s ddim steps=2 -n 3 -o grid.png -q
holds out "^3"
good "ddpm" "$D" sample -s ddpm steps=3 -o ddpm.npy

good "measure" "$D" measure -p inpaint mask=box:24 sigma=0.05 -i face.png -o y.npy
holds y.npy.run '^problem.mask=box:24$'
holds y.npy.run '^problem.sigma=0.05$'
good "measure again" "$D" measure @y.npy.run -o y2.npy
same "a record repeats the measurement" y.npy y2.npy
good "another seed" "$D" measure @y.npy.run --seed 1 -o y3.npy
differ "--seed changes the noise" y.npy y3.npy
good "sigma01 is doubled" "$D" measure -p inpaint mask=box:24 sigma01=0.025 \
    -i face.png -o y4.npy
same "sigma01=0.025 is sigma=0.05" y.npy y4.npy

good "solve" "$D" solve -s dps steps=4 scale=1 -y y.npy -o out.png --truth face.png \
    --sheet sheet.png --trace trace.tsv
for f in out.png out.png.run sheet.png trace.tsv; do exists $f; done
[ "$(wc -l <trace.tsv)" -eq 5 ] && yes || no "the trace has a header and 4 steps"
true_that "psnr is a number" "$(column psnr) > 0 && $(column psnr) < 60"
true_that "residual is a number" "$(column residual) > 0"
holds out.png.run '^problem.mask=box:24$'
holds out.png.run '^solver.scale=1$'
holds out.png.run '^cost.net_vjp=4$'
strings_of() { tr -c '[:print:]\n' '\n' <"$1"; }
strings_of out.png | grep -q 'seed=0' && yes || no "the PNG carries no settings"
good "repeat" "$D" solve @out.png.run -o again.png
same "a record repeats the run" out.png again.png
good "repeat, other seed" "$D" solve @out.png.run --seed 7 -o seed7.png
differ "--seed changes the result" out.png seed7.png
good "repeat, a setting changed" "$D" solve @out.png.run solver.steps=2 -o steps2.png
holds steps2.png.run '^solver.steps=2$'
good "one thread" "$D" solve @out.png.run --threads 1 -o t1.png
same "threads do not change the result" out.png t1.png
"$D" list isa | cut -f 1 >isas
while read -r isa; do
    good "isa $isa" "$D" solve @out.png.run --isa "$isa" -o isa.png
    same "isa $isa" out.png isa.png
done <isas
# What is needed at least depends on the machine's libraries and threads; half a MiB more, because
# two processes differ.
enough() { "$@" --mem 8M 2>&1 | sed -n 's/.*needs \([0-9.]*\) MiB.*/\1/p' |
    awk '{ printf "%.0f", ($1 + 0.5) * 1048576 }'; }
good "memory" "$D" solve @out.png.run --mem "$(enough "$D" solve @out.png.run -o mem.png)" \
    -o mem.png
holds err "derivatives run blocks again"
same "memory" out.png mem.png
bad 3 "this run needs" "$D" solve @out.png.run --mem 30M -o mem.png
bad 1 "give bytes, or such as 800M" "$D" solve @out.png.run --mem lots -o mem.png
good "memory of a plan" "$D" info -s dps --threads 1 \
    --mem "$(enough "$D" info -s dps --threads 1)"
holds out "blocks run again"
good "samples of one" "$D" solve -s dps steps=2 -y y.npy -n 2 -o two.npy
good "as the first" "$D" solve -s dps steps=2 -y y.npy -o one.npy
good "first of two" "$D" op -p denoise -i 'two.npy[0]' -o first.npy
same "sample 0 does not depend on -n" one.npy first.npy
good "many measurements" "$D" measure -p sr factor=4 -i three.npy -o many.npy
good "solved one after another" "$D" solve -s dps steps=2 -y many.npy -o many.png \
    --truth three.npy --sheet many_sheet.png
holds out '^mean'
for p in "inpaint mask=random:0.7" "sr factor=4 kind=mean" "gblur size=15 std=1.5" "denoise"; do
    # shellcheck disable=SC2086
    good "solve $p" "$D" solve -s dps steps=2 -p $p -i face.png -o p.png --sheet p_sheet.png
    exists p_sheet.png
done
good "eval" "$D" eval out.png face.png
true_that "relative L2" "$(column relative_l2) > 0"
# A truth of another size, as a person has it: fitted where that was said, or was when measuring
good "a large face" "$D" view face.png -o large.png --scale 3
good "measured small" "$D" measure -q -p hdr -i large.png --fit resize -o small.npy
good "its truth is fitted too" "$D" solve -q -s dps steps=2 -y small.npy -o small.png \
    --truth large.png --sheet small.sheet.png
true_that "psnr is a number" "$(column psnr) > 0"
good "eval --fit" "$D" eval small.png large.png --fit resize
true_that "psnr is a number" "$(column psnr) > 0"
bad 2 "--fit crop|pad|resize" "$D" eval small.png large.png
bad 1 "give crop, pad or resize" "$D" eval small.png large.png --fit shrink
# A record repeated elsewhere leaves the sheet of the first run alone
cp small.sheet.png kept.png
good "repeated elsewhere" "$D" solve -q @small.png.run --seed 3 -o small2.png
same "the first run's sheet" small.sheet.png kept.png
bad 1 "say solver.steps" "$D" solve @small.png.run steps=3 -o x.png
bad 1 "there is no record" "$D" solve -s dps -y one.npy -o x.png
good "-h" "$D" solve -h
holds out "^diffinv solve"
good "eval, equal" "$D" eval face.png face.png
[ "$(column psnr)" = inf ] && [ "$(column ssim_piq)" = 1.0000 ] && yes || no "equal pictures"
good "eval, an array" "$D" eval three.npy three.npy
holds out '^mean'

good "net" "$D" net -i one.npy -t 37 -o e.npy --vjp one.npy --gx gx.npy
exists gx.npy
good "net, fractional t" "$D" net -i one.npy -t 37.5 -o e2.npy
differ "t counts" e.npy e2.npy
good "net, the denoiser" "$D" net -i one.npy --sigma 1e-4 -o d.npy --vjp one.npy --gx gd.npy
good "of hardly any noise" "$D" eval d.npy one.npy
true_that "D(x; 0) = x" "$(column relative_l2) < 1e-3"
good "its derivative" "$D" eval gd.npy one.npy
true_that "D'(x; 0) = 1" "$(column relative_l2) < 0.01"
bad 1 "together" "$D" net -i one.npy -t 3 --sigma 1 -o x.npy
bad 1 "must be positive" "$D" net -i one.npy --sigma 0 -o x.npy
good "op" "$D" op -p sr factor=4 -i one.npy -o a.npy
good "op, derivative" "$D" op -p sr factor=4 -i one.npy -o a2.npy --vjp a.npy --gx g.npy
same "op" a.npy a2.npy
good "op, pseudo-inverse" "$D" op -p sr factor=4 --pinv -i a.npy -o pinv.npy
good "op of that" "$D" op -p sr factor=4 -i pinv.npy -o back.npy
good "A A+ = 1" "$D" eval back.npy a.npy
true_that "A A+ y = y" "$(column relative_l2) < 1e-5"

# ---- Priors and problems made from arrays --------------------------------------------------

npy mean.npy "1, 4, 4" $(formula 16 "i / 50 - 0.1")
npy var.npy "1, 4, 4" $(formula 16 "0.25")
npy cov.npy "16, 16" $(formula 256 "i % 17 ? 0 : 0.25")
npy zero.npy "16, 16" $(formula 256 "0")
npy truth.npy "1, 4, 4" $(formula 16 "i / 10 - 0.8")
npy a.npy "3, 16" $(formula 48 "(i * 7 % 11 - 5) / 20")
npy weight.npy "2," 1 3
npy means.npy "2, 1, 2, 2" -0.5 -0.5 -0.5 -0.5 0.5 0.5 0.5 0.5
npy vars.npy "2," 0.04 0.09
npy allvars.npy "2, 1, 2, 2" 0.04 0.04 0.04 0.04 0.09 0.09 0.09 0.09
G=gauss:mean.npy,cov.npy
M=mixture:weight.npy,means.npy,vars.npy

good "gauss, full" "$D" sample -w $G -s ddim steps=9 -n 3 -o g1.npy
holds err "^diffinv: cost: 27 network calls, 0 derivative calls, 0 A, 0 A', .* s$"
holds g1.npy.run "^weights=$G$"
holds g1.npy.run '^info.weights_crc=[0-9a-f]*$'
crc=$(grep weights_crc g1.npy.run)
good "a record repeats it" "$D" sample @g1.npy.run -o g2.npy -q
[ ! -s err ] && yes || no "-q says nothing"
same "a record repeats it" g1.npy g2.npy
good "gauss, diagonal" "$D" sample -w gauss:mean.npy,var.npy -s ddim steps=9 -n 3 -o g2.npy
same "a full covariance and its diagonal" g1.npy g2.npy
[ "$(grep weights_crc g2.npy.run)" != "$crc" ] && yes || no "other arrays, same checksum"
good "a singular covariance" "$D" sample -w gauss:mean.npy,zero.npy -s ddim steps=9 -o g3.npy
good "the mean" "$D" eval g3.npy mean.npy
true_that "a Gaussian without spread is its mean" "$(column relative_l2) < 1e-4"
good "mixture" "$D" sample -w $M -s ddim steps=9 -n 12 -o m1.png
exists m1.png
good "mixture, array" "$D" sample -w $M -s ddim steps=9 -n 12 -o m1.npy
good "mixture, variances" "$D" sample -w mixture:weight.npy,means.npy,allvars.npy \
    -s ddim steps=9 -n 12 -o m2.npy
same "one variance for all of a component" m1.npy m2.npy
good "info" "$D" info -w $M -s dps
for word in "mixture of 2 Gaussians" "1x2x2" "its working bytes"; do holds out "$word"; done
good "edm" "$D" sample -w $G -s edm steps=8 -n 2 -o e.npy

good "measure a matrix" "$D" measure -w $G -p matrix a=a.npy sigma=0.1 -i truth.npy -o ma.npy \
    --simple simple.npy
good "its map" "$D" op -p matrix a=a.npy -i simple.npy -o back.npy
good "its pseudo-inverse" "$D" op -p matrix a=a.npy --pinv -i ma.npy -o pinv.npy
good "A A+ = 1" "$D" eval back.npy ma.npy
true_that "A A+ y = y" "$(column relative_l2) < 1e-5"
tail -c 64 simple.npy >tail1
tail -c 64 pinv.npy >tail2
same "the simple answer is the pseudo-inverse" tail1 tail2
good "solve a matrix" "$D" solve -w $G -y ma.npy -s ddnm steps=20 --truth truth.npy \
    -o mx.npy --sheet sheet.png --trace trace.tsv
exists sheet.png
holds err "^diffinv: cost: 20 network calls, 0 derivative calls, "
[ "$(head -n 1 trace.tsv)" = "$(printf 'image\tstep\tt\tnoise\tresidual\tpsnr')" ] && yes ||
    no "the trace has $(head -n 1 trace.tsv)"
good "repeat" "$D" solve @mx.npy.run -o mx2.npy
same "a record repeats the run" mx.npy mx2.npy
good "as a picture" "$D" solve @mx.npy.run -o mx.png
npy pair.npy "2, 1, 1, 3" 1 2 3 1 2 3
good "many measurements" "$D" solve -w $G -p matrix a=a.npy -y pair.npy -s ddnm steps=9 \
    -o mx3.npy
npy two.npy "2, 2, 4" $(formula 16 "0")
npy twovar.npy "2, 2, 4" $(formula 16 "1")
good "two channels" "$D" sample -w gauss:two.npy,twovar.npy -s ddim steps=3 -o two.npy
bad 6 "1 or 3 channels" "$D" sample -w gauss:two.npy,twovar.npy -s ddim steps=3 -o x.png
for p in "denoise" "inpaint mask=random:0.5" "sr factor=2" "gblur size=3 std=1"; do
    # shellcheck disable=SC2086
    good "solve $p" "$D" solve -q -w $G -s dps steps=5 -p $p -i truth.npy -o p.npy
done
good "a solver's noise level is the problem's" "$D" solve -q -w $G -y ma.npy -s dps_mo steps=5 \
    -o mo.npy
holds mo.npy.run '^solver.sigma_y=0.1$'
bad 1 "give sigma_y=" "$D" solve -q -w $G -p denoise sigma=0 -i truth.npy -s dps_mo -o x.npy

good "defaults of a problem" "$D" list solvers --defaults
scale=$(sed -n '/^dps /,/for inpaint/s/.*for inpaint: scale=//p' out)
good "the problem's default" "$D" solve -q -w $G -i truth.npy -p inpaint mask=box:2 -s dps \
    steps=3 -o d1.npy
holds d1.npy.run "^solver.scale=$scale$"
good "its record, another problem" "$D" solve @d1.npy.run -q -p denoise -o d2.npy
holds d2.npy.run '^solver.scale='
grep -q "^solver.scale=$scale$" d2.npy.run && no "a default went to another problem" || yes
good "its record, told otherwise" "$D" solve @d1.npy.run -q solver.scale=$scale -p denoise \
    -o d2.npy
holds d2.npy.run "^solver.scale=$scale$"

bad 2 "nowhere.npy" "$D" sample -w gauss:nowhere.npy,cov.npy -o x.npy
bad 1 "write gauss:MEAN.npy,COV.npy" "$D" sample -w gauss:mean.npy -o x.npy
bad 1 "write gauss:MEAN.npy,COV.npy" "$D" sample -w gauss:mean.npy, -o x.npy
bad 1 "write gauss:MEAN.npy,COV.npy" "$D" sample -w gauss:mean.npy,cov.npy,cov.npy -o x.npy
bad 1 "write mixture:WEIGHTS" "$D" sample -w mixture:weight.npy,means.npy -o x.npy
npy cov9.npy "9, 9" $(formula 81 "i % 10 ? 0 : 1")
bad 2 "cov9.npy is 1x1x9x9.*(16,16)" "$D" sample -w gauss:mean.npy,cov9.npy -o x.npy
bad 2 "means.npy holds 2 images" "$D" sample -w gauss:means.npy,cov.npy -o x.npy
bad 2 "means.npy is 2x1x2x2: give the weights" "$D" info -w mixture:means.npy,means.npy,vars.npy
npy hurt.npy "16, 16" $(formula 256 'i == 16 ? "nan" : i % 17 ? 0 : 1')
bad 2 "hurt.npy: value 16 is NaN" "$D" sample -w gauss:mean.npy,hurt.npy -o x.npy
npy hurt.npy "1, 4, 4" $(formula 16 "i == 3 ? -1 : 1")
bad 2 "variance is negative" "$D" sample -w gauss:mean.npy,hurt.npy -o x.npy
npy hurt.npy "16, 16" $(formula 256 "i == 1 ? 0.5 : i % 17 ? 0 : 1")
bad 2 "not symmetric" "$D" sample -w gauss:mean.npy,hurt.npy -o x.npy
npy hurt.npy "2," -1 3
bad 2 "component 0 has the weight -1" "$D" sample -w mixture:hurt.npy,means.npy,vars.npy \
    -o x.npy
bad 2 "component 0 has the variance -1" "$D" sample -w mixture:weight.npy,means.npy,hurt.npy \
    -o x.npy
npy hurt.npy "3," 1 1 1
bad 2 "holds 2 means" "$D" sample -w mixture:hurt.npy,means.npy,vars.npy -o x.npy
bad 2 "hurt.npy is 1x1x1x3.*as (2)" "$D" sample -w mixture:weight.npy,means.npy,hurt.npy \
    -o x.npy
bad 2 "read as \[-1,1\]" "$D" sample -w gauss:mean.npy,face.png -o x.npy
bad 2 "knows 4x4 only" "$D" sample -w $G --size 8x8 -o x.npy
bad 1 "knows no classes" "$D" sample -w $G --label 1 -o x.npy
bad 2 "knows 4x4 only" "$D" measure -w $G -p denoise -i means.npy -o x.npy
bad 1 "net shows a network" "$D" net -w $G -i truth.npy -t 3 -o x.npy
bad 1 "needs a matrix: a=A.npy" "$D" measure -w $G -p matrix -i truth.npy -o x.npy
npy wide.npy "3, 15" $(formula 45 "1")
bad 2 "wide.npy is 3x15.*1x4x4 has 16" "$D" measure -w $G -p matrix a=wide.npy -i truth.npy \
    -o x.npy
npy tall.npy "4, 16" $(formula 64 "1")
cp ma.npy plain.npy
bad 2 "plain.npy is 1x1x3, problem matrix measures 1x1x4" "$D" solve -q -w $G \
    -p matrix a=tall.npy \
    -y plain.npy -o x.npy -s ddnm steps=2
bad 2 "two dimensions" "$D" op -p matrix a=means.npy -i truth.npy -o x.npy
bad 2 "nowhere.npy" "$D" op -p matrix a=nowhere.npy -i truth.npy -o x.npy
bad 1 "n=0" "$D" solve -q -w $G -y ma.npy -s cps n=0 -o x.npy
bad 1 "steps=0" "$D" solve -q -w $G -y ma.npy -s dmplug steps=0 -o x.npy
bad 1 "iters=0" "$D" solve -q -w $G -y ma.npy -s dmplug iters=0 -o x.npy

# ---- Counts, notes, the oracle -------------------------------------------------------------

good "dmplug" "$D" solve -w $G -y ma.npy -s dmplug iters=150 window=10 patience=20 -n 2 \
    -o dm.npy \
    --trace trace.tsv
holds err '^diffinv: image 2 of 2: ES-WMV'
holds err ', at most '
holds err 'wmv '
grep -q 'noise' err && no "dmplug has no noise level to show" || yes
holds err "^diffinv: cost: .* network calls, .* derivative calls, "
holds dm.npy.run '^info.note=image 1 of 2: ES-WMV.*; image 2 of 2: ES-WMV'
holds dm.npy.run '^cost.net=[1-9]'
[ "$(head -n 1 trace.tsv)" = "$(printf 'image\tstep\tt\tnoise\tresidual\twmv')" ] && yes ||
    no "the trace of dmplug has $(head -n 1 trace.tsv)"
good "samples of one" "$D" solve -q -w $G -y ma.npy -s dmplug iters=150 window=10 patience=20 \
    -o dm1.npy
good "first of two" "$D" op -p denoise -i 'dm.npy[0]' -o first.npy
same "sample 0 does not depend on -n" dm1.npy first.npy

good "oracle" "$D" solve -w $G -y ma.npy -s dps steps=60 scale=2 --truth truth.npy --oracle \
    -o or.npy --trace trace.tsv
holds err "oracle: iterate [0-9]* of 60 chosen by its PSNR.*not available in practice"
holds or.npy.run "^info.oracle=iterate [0-9]* of 60 .*not available in practice"
holds or.npy.run "^oracle=1$"
holds out "oracle_iterate"
best=$(awk -F '\t' 'NR > 1 && (NR == 2 || $6 > m) { m = $6 } END { print m }' trace.tsv)
[ "$(column psnr)" = "$best" ] && yes || no "the oracle's PSNR is $(column psnr), not $best"
good "a record repeats it" "$D" solve @or.npy.run -q -o or2.npy
same "a record repeats the oracle" or.npy or2.npy
good "es" "$D" solve -w $G -y ma.npy -s dmplug iters=60 --truth truth.npy --oracle -o or3.npy
holds err "es=no"
bad 1 "oracle chooses by the truth" "$D" solve -w $G -y ma.npy --oracle -o x.npy
bad 1 "it belongs to solve" "$D" sample -w $G --oracle -o x.npy

# ---- Several samples: together, their mean and spread --------------------------------------

solvers_of() { "$D" list solvers | awk -v with="$1" '
    /^[a-z]/ { name = $1 }
    /needs:/ { one = /one sample after/; prior = /the prior only/
               if (with == "all" || (with == "together" && !one)) print name, prior }'; }
# brief SOLVER: settings of a run that is over at once
brief() {
    case $1 in
    dmplug) echo "dmplug iters=5" ;;
    cps|scg) echo "$1 steps=5 n=3" ;;
    *_mo) echo "$1 steps=4 n=2" ;;
    *) echo "$1 steps=4" ;;
    esac
}
# A trace looks at one image at a time, so with it the samples go one by one.
solvers_of together >together
[ "$(wc -l <together)" -ge 8 ] && yes || no "few solvers take samples together"
while read -r s prior; do
    if [ "$prior" = 1 ]; then set -- sample; else set -- solve -y ma.npy; fi
    # shellcheck disable=SC2046
    set -- "$D" "$@" -w $G -s $(brief "$s") -n 5
    good "$s, together" "$@" -o many1.npy
    good "$s, one by one" "$@" -o many2.npy --trace trace.tsv -q
    same "$s, together and one by one" many1.npy many2.npy
    grep -v -e seconds -e bytes many1.npy.run | grep '^cost' >cost1
    grep -v -e seconds -e bytes many2.npy.run | grep '^cost' >cost2
    same "$s, its cost" cost1 cost2
done <together
good "together" "$D" solve -v -w $G -y ma.npy -s dps steps=4 -n 9 -o many1.npy
holds err "images 1-8 of 9"
holds err "image 9 of 9"
for s in "dps steps=2" "dps_mo steps=2 n=2"; do
    # shellcheck disable=SC2086
    set -- "$D" solve -q -y y.npy -s $s -n 3
    good "the network, together" "$@" -o many1.npy
    good "the network, one by one" "$@" -o many2.npy --trace trace.tsv
    same "the network, together and one by one" many1.npy many2.npy
done
good "as many as fit" "$D" solve -v -y y.npy -s dps steps=2 -n 3 --mem 75M --threads 1 -o mem.npy
holds err "derivatives keep what they need"
holds err ", [12] at once"
good "all at once" "$D" solve -q -y y.npy -s dps steps=2 -n 3 -o many1.npy
same "memory" many1.npy mem.npy

values() { od -An -v -t f4 -j 128 "$1" | tr -s ' ' '\n' | grep .; }
good "mean and spread" "$D" solve -w $G -y ma.npy -s dps steps=9 -n 5 --truth truth.npy -o many1.npy \
    --mean mean5.npy --std std5.npy
holds out '^mean_of_samples'
holds many1.npy.run '^info.psnr_of_mean='
values many1.npy | awk '{ i = (NR - 1) % 16; s[i] += $1; q[i] += $1 * $1 }
    END { for (i = 0; i < 16; i++) { m = s[i] / 5; print m, sqrt((q[i] - 5 * m * m) / 4) } }' >want
values mean5.npy >got1
values std5.npy >got2
paste -d ' ' got1 got2 want | awk '{ d = $1 - $3; e = $2 - $4; if (d * d > 1e-10 || e * e > 1e-8) bad = 1 }
    END { exit bad || NR != 16 }' && yes || no "the mean or the standard deviation is wrong"
good "a picture of the spread" "$D" solve -w $G -y ma.npy -s dps steps=9 -n 5 -o many1.npy \
    --std std5.png --mean mean5.png
holds err "std5.png: black is 0, white is"
good "mean of each measurement" "$D" solve -q -w $G -p matrix a=a.npy -y pair.npy -s dps steps=3 \
    -n 3 -o many1.npy --mean mean2.npy
grep -a -q "'shape': (2, 1, 4, 4)" mean2.npy && yes || no "two measurements have two means"
good "samples" "$D" sample -q -w $G -s ddim steps=3 -n 4 -o many1.npy --std std5.npy
exists std5.npy

# ---- The preview ---------------------------------------------------------------------------

set -- "$D" solve -w $G -y ma.npy -s dps steps=900 -n 2
good "without" "$@" -q -o pre1.npy
"$@" -o pre2.npy --preview 1 >out 2>err &
pid=$!
tries=0
until cp pre2.npy.preview.png seen.png 2>/dev/null || [ $tries -gt 2000 ]; do
    tries=$((tries + 1))
done
wait $pid
good "a preview is a picture" "$D" eval seen.png seen.png
same "a preview changes nothing" pre1.npy pre2.npy
[ ! -e pre2.npy.preview.png ] && yes || no "the preview stays after the end"
mkdir -p pre3.npy.preview.png
good "a preview that can't be written" "$D" solve -w $G -y ma.npy -s dps steps=9 -n 2 --preview 1 \
    -o pre3.npy
[ "$(grep -c 'goes on without a preview' err)" -eq 1 ] && yes || no "it is said once"
rmdir pre3.npy.preview.png
good "a preview of two channels" "$D" sample -w gauss:two.npy,twovar.npy -s ddim steps=3 -n 3 \
    --preview 1 -o pre4.npy
grep -q 'without a preview' err && no "two channels have no preview" || yes

# ---- Views ---------------------------------------------------------------------------------

size_of() { od -An -t u1 -j 16 -N 8 "$1" | awk '{ print $3 * 256 + $4 "x" $7 * 256 + $8 }'; }
# seen FILE WxH COMMAND...: a view of that size
seen() {
    seen_file=$1
    seen_size=$2
    shift 2
    good "view" "$D" view "$@" -o "$seen_file"
    [ "$(size_of "$seen_file")" = "$seen_size" ] && yes ||
        no "$seen_file is $(size_of "$seen_file"), not $seen_size: $*"
}
npy five.npy "5, 4, 4" $(formula 80 "i / 40 - 1")
npy row.npy "100," $(formula 100 "i % 10 - 3")
npy holes.npy "1, 4, 4" $(formula 16 'i == 3 ? "nan" : i + 1')
seen v.png 256x256 face.png
seen v.png 128x128 face.png --scale 2
seen v.png 516x256 'three.npy[0:2]'
seen v1.png 256x256 y.npy
seen v2.png 256x256 y.npy -p inpaint mask=box:24
same "the record says what was measured" v1.png v2.png
cp y.npy bare.npy
seen v2.png 256x256 bare.npy
differ "missing pixels are marked" v1.png v2.png
good "a reduced picture" "$D" measure -p sr factor=4 -i face.png -o small_y.npy
seen v.png 256x256 small_y.npy
seen v.png 586x228 row.npy
holds err "100 numbers, -3 to 6"
seen v.png 586x228 ma.npy
seen v.png 1328x300 five.npy
holds err "diverging map, values -1 to 0.975"
seen v.png 272x288 holes.npy --map heat
holds err "1 of 16 values are NaN"
for map in grey gray heat diverging log; do seen v.png 272x288 holes.npy --map $map; done
seen v.png 800x300 face.png --map log
printf 'map=log\nscale=2\n' >view.set
seen v.png 416x172 face.png @view.set
seen v1.png 800x300 -i face.png map=heat

# ---- The selftest --------------------------------------------------------------------------

good "selftest" "$D" selftest
holds out '^[0-9]* checks, all ok'
grep -q FAILED out && no "selftest" || yes
for isa in $(cut -f 1 isas); do holds out "^ok.$isa, fast, 1 thread$"; done
mkdir -p other
cp "$W" other/portraits64.unw
printf '\125\252\125' | dd of=other/portraits64.unw bs=1 seek=6000000 conv=notrunc 2>/dev/null
DIFFINV_WEIGHTS=$PWD/other "$D" selftest >out 2>err
[ $? -eq 4 ] && grep -q '^FAILED.*portraits64.*damaged' out && yes ||
    no "a damaged prior fails the selftest with exit code 4"

# ---- A run left and taken up ---------------------------------------------------------------

# killed SIGNAL OUTPUT COMMAND...: starts it, sends the signal once OUTPUT.state is there
killed() {
    signal=$1
    state=$2.state
    shift 2
    rm -f "$state"
    "$@" >out 2>err &
    pid=$!
    tries=0
    until [ -e "$state" ] || [ $tries -gt 3000 ]; do
        sleep 0.01 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
    kill "-$signal" $pid
    wait $pid 2>/dev/null
    code=$?
    exists "$state"
}
cost_of() { grep -e '^cost' -e '^info.note' "$1" | grep -v -e seconds -e bytes; }
for s in "dmplug iters=1500 es=no" "cps steps=150"; do
    # shellcheck disable=SC2086
    set -- "$D" solve -q -w $G -y ma.npy -s $s -n 2 --truth truth.npy
    good "$s, in one go" "$@" -o whole.npy --trace whole.tsv
    rm -f left.npy
    killed KILL left.npy "$@" -o left.npy --trace left.tsv --save-every 5
    [ ! -e left.npy ] && yes || no "$s was done before it was killed"
    rm -f ./*.tmp*
    good "$s, taken up" "$@" -o left.npy --trace left.tsv --resume
    same "$s, killed and taken up" whole.npy left.npy
    same "$s, its trace" whole.tsv left.tsv
    cost_of whole.npy.run >whole.cost
    cost_of left.npy.run >left.cost
    same "$s, what it cost" whole.cost left.cost
    holds left.npy.run '^info.resumed=image [12] step [0-9]*$'
    [ ! -e left.npy.state ] && yes || no "the state stays after the end"
done
# lasting SOLVER: settings of a run long enough to be left in the middle
lasting() {
    case $1 in
    dmplug) echo "dmplug iters=900 es=no" ;;
    cps|scg) echo "$1 steps=150 n=4" ;;
    *_mo) echo "$1 steps=400 n=2" ;;
    *) echo "$1 steps=500" ;;
    esac
}
# Every solver, two samples. The state is caught by a link, so that the speed of this machine
# does not matter, and the run killed.
solvers_of all >every
while read -r s prior; do
    if [ "$prior" = 1 ]; then set -- sample; else set -- solve -y ma.npy; fi
    # shellcheck disable=SC2046
    set -- "$D" "$@" -q -w $G -s $(lasting "$s") -n 2
    good "$s, in one go" "$@" -o whole.npy
    rm -f left.npy* caught
    "$@" -o left.npy --save-every 7 >/dev/null 2>&1 &
    pid=$!
    tries=0
    until ln left.npy.state caught 2>/dev/null || [ $tries -gt 3000 ]; do
        tries=$((tries + 1))
    done
    { kill -KILL $pid; wait $pid; } 2>/dev/null
    rm -f ./*.tmp* left.npy
    rm -f left.npy.state
    mv caught left.npy.state
    good "$s, taken up" "$@" -o left.npy --resume
    same "$s, left and taken up" whole.npy left.npy
    cost_of whole.npy.run >whole.cost
    cost_of left.npy.run >left.cost
    same "$s, what it cost" whole.cost left.cost
done <every
set -- "$D" solve -w $G -y ma.npy -s dps steps=900 --truth truth.npy
good "in one go" "$@" -o whole.png -q --oracle
killed INT left.png "$@" -o left.png --oracle --save-every 3
[ $code -eq 5 ] && yes || no "an interrupt is exit code 5"
holds err 'with --resume goes on$'
holds left.png.run '^info.status=interrupted$'
cp left.png.state kept.state
good "taken up after an interrupt" "$@" -o left.png --oracle --resume
holds err 'going on after step'
same "interrupted and taken up" whole.png left.png
cp kept.state left.png.state
good "another speed" "$@" -o left.png --oracle --resume --threads 1 --isa baseline \
    --save-every 50
same "taken up at another speed" whole.png left.png
cp kept.state left.png.state
good "from the record" "$D" solve @left.png.run --resume
same "taken up from the record" whole.png left.png
good "samples in one go" "$D" sample -q -w $G -s ddpm -n 20 -o whole.npy
killed KILL left.npy "$D" sample -q -w $G -s ddpm -n 20 -o left.npy --save-every 20
rm -f ./*.tmp*
good "samples taken up" "$D" sample -q -w $G -s ddpm -n 20 -o left.npy --resume
same "samples taken up" whole.npy left.npy

# refused CODE WORDS COMMAND...: as bad, with a state beside x.png that stays
refused() {
    cp kept.state y.png.state
    refused_code=$1
    refused_words=$2
    shift 2
    bad "$refused_code" "$refused_words" "$@" -o y.png
    [ ! -e y.png ] && same "the state stays" kept.state y.png.state || no "it wrote y.png: $*"
}
refused 1 "solver.steps was 900 and is 800" "$@" --oracle --resume -s dps steps=800
refused 1 "oracle was 1 and is not set" "$@" --resume
refused 1 "seed was 0 and is 3" "$@" --oracle --resume --seed 3
refused 1 "solver was dps and is ddnm" "$@" --oracle --resume -s ddnm
cp ma.npy ma_kept.npy
cp ma.npy.run ma_kept.npy.run
good "another measurement" "$D" measure @ma.npy.run --seed 9 -o ma2.npy
cp ma2.npy ma.npy
refused 1 "checksum of the measurement" "$@" --oracle --resume
cp ma_kept.npy ma.npy
cp cov.npy cov_kept.npy
npy cov.npy "16, 16" $(formula 256 "i % 17 ? 0 : 0.26")
refused 1 "checksum of the weights" "$@" --oracle --resume
cp cov_kept.npy cov.npy
cp a.npy a_kept.npy
npy a.npy "3, 16" $(formula 48 "(i * 7 % 11 - 4) / 20")
refused 1 "checksum of the problem" "$@" --oracle --resume
cp a_kept.npy a.npy
cp kept.state whole.state
size=$(wc -c <whole.state)
for at in 0 3 20 60 700 $((size - 500)) $((size - 3)); do
    printf '\125\252' | dd of=kept.state bs=1 seek=$at conv=notrunc 2>/dev/null
    refused 2 "damaged" "$@" --oracle --resume
    cp whole.state kept.state
done
for n in 0 10 19 20 100 $((size - 100)) $((size - 1)); do
    head -c $n whole.state >kept.state
    refused 2 "y.png.state" "$@" --oracle --resume
done
bad 2 "nothing to resume" "$@" --resume -o x.npy
bad 1 "save-every=0" "$@" --save-every 0 -o x.npy
bad 1 "did you mean --save-every" "$@" --save-evry 4 -o x.npy

# ---- Masks and sizes -----------------------------------------------------------------------

half() { # HxW of zeros above ones, as PGM
    printf 'P5\n%d %d\n255\n' "$2" "$1"
    head -c $(($1 * $2 / 2)) /dev/zero
    head -c $(($1 * $2 / 2)) /dev/zero | tr '\000' '\377'
}
half 64 64 >mask.pgm
good "mask file" "$D" op -p inpaint mask=mask.pgm -i face.png -o m.npy
good "the same mask from a box" "$D" op -p inpaint mask=box:32x64 at=0,0 -i face.png -o m2.npy
same "masks" m.npy m2.npy
good "at=rand" "$D" measure -p inpaint mask=box:24 at=rand pseed=1 -i face.png -o r1.npy
good "at=rand again" "$D" measure -p inpaint mask=box:24 at=rand pseed=1 -i face.png -o r2.npy
good "at=rand, other" "$D" measure -p inpaint mask=box:24 at=rand pseed=2 -i face.png -o r3.npy
same "pseed fixes the mask" r1.npy r2.npy
differ "pseed moves the mask" r1.npy r3.npy
printf 'P5\n64 64\n255\n' >white.pgm
head -c 4096 /dev/zero | tr '\000' '\377' >>white.pgm
good "random mask" "$D" op -p inpaint mask=random:0.7 -i white.pgm -o kept.pgm
# missing pixels are 0, which is mid-grey, octal 200; floor(4096*0.7) = 2867
[ "$(tail -c 4096 kept.pgm | tr -cd '\200' | wc -c)" -eq 2867 ] && yes ||
    no "random:0.7 drops 2867 of 4096 pixels"
good "resize" "$D" measure -p denoise sigma=0 -w none --size 50x50 --fit resize \
    -i face.png -o 50.png
good "fit to the prior" "$D" measure -p denoise -i 50.png --fit pad -o fit.npy
holds fit.npy.run '^info.image=3x56x56$'
good "resize to the prior" "$D" measure -p denoise -i 50.png --fit resize -o fit.npy
holds fit.npy.run '^info.image=3x64x64$'
good "grey picture" "$D" measure -v -p denoise -i mask.pgm -o grey.npy
holds err "repeated to 3 channels"

# ---- Refusals: usage -----------------------------------------------------------------------

bad 1 "did you mean 'solve'" "$D" slove
bad 1 "did you mean --seed" "$D" solve --sed 3
bad 1 "it belongs to measure, solve" "$D" sample --sheet x.png
bad 1 "did you mean --preview" "$D" solve --previw 3
bad 1 "it belongs to view" "$D" solve --map heat
bad 1 "preview=0" "$D" solve -y y.npy --preview 0 -o x.png
mkfifo pipe.npy
bad 1 "a preview has no place" "$D" solve -y y.npy --preview 3 -o pipe.npy
bad 1 "give -n 2 or more" "$D" solve -y y.npy --std x.npy -o x.png
bad 1 "is both" "$D" solve -y y.npy -n 2 --std x.png -o x.png
bad 1 "view needs a file" "$D" view -o x.png
bad 1 "did you mean heat" "$D" view face.png --map hat -o x.png
bad 1 "a view is a picture" "$D" view face.png -o x.npy
bad 1 "view shows one file" "$D" view face.png -i face.png -o x.png
bad 1 "did you mean 'mask'" "$D" view y.npy -p inpaint mas=box:24 -o x.png
bad 1 "mask=box:16.*mask=box:24" "$D" view y.npy -p inpaint mask=box:16 -o x.png
bad 2 "nowhere.npy" "$D" view nowhere.npy -o x.png
bad 3 "too large" "$D" view face.png --scale 4000 -o x.png
bad 1 "did you mean 'dps'" "$D" solve -s dpss -y y.npy -o x.png
bad 1 "did you mean 'inpaint'" "$D" measure -p inpant mask=box:9 -i face.png -o x.npy
bad 1 "did you mean 'mask'" "$D" measure -p inpaint mas=box:9 -i face.png -o x.npy
bad 1 "did you mean 'scale'" "$D" solve -s dps scael=1 -y y.npy -o x.png
bad 1 "did you mean 'seed'" "$D" solve sed=1 -y y.npy -o x.png
bad 1 "did you mean 'priors'" "$D" list prior
bad 1 "out of range" "$D" solve -s dps steps=0 -y y.npy -o x.png
bad 1 "not a number" "$D" solve -s dps scale=abc -y y.npy -o x.png
bad 1 "scale" "$D" solve -s dps scale=0x1 -y y.npy -o x.png
bad 1 "even|ddim" "$D" sample -s ddim spacing=odd -o x.png
bad 1 "bicubic|mean" "$D" measure -p sr kind=x -i face.png -o x.npy
bad 1 "is even" "$D" measure -p gblur size=14 -i face.png -o x.npy
bad 1 "too large" "$D" measure -p gblur size=301 -i face.png -o x.npy
bad 1 "needs a mask" "$D" measure -p inpaint -i face.png -o x.npy
bad 1 "larger than the 64x64" "$D" measure -p inpaint mask=box:80 -i face.png -o x.npy
bad 1 "give center, rand" "$D" measure -p inpaint mask=box:24 at=middle -i face.png -o x.npy
bad 1 "margin" "$D" measure -p inpaint mask=box:60 at=rand -i face.png -o x.npy
bad 1 "share" "$D" measure -p inpaint mask=random:1.5 -i face.png -o x.npy
bad 1 "pseed" "$D" measure -p inpaint mask=random:0.5 pseed=-1 -i face.png -o x.npy
bad 1 "whole number" "$D" solve -y y.npy -o x.png --seed 1.5
bad 1 "whole number" "$D" solve -y y.npy -o x.png --seed 18446744073709551616
bad 1 "whole number" "$D" sample -n 0 -o x.png
bad 1 "needs -o" "$D" solve -y y.npy
bad 1 "needs a value" "$D" solve -y y.npy -o
bad 1 "needs -y" "$D" solve -o x.png
bad 1 "needs -p" "$D" measure -i face.png -o x.npy
bad 1 "only draws samples" "$D" solve -s ddim -y y.npy -o x.png
bad 1 "solves a problem" "$D" sample -s dps -o x.png
bad 1 "exact or fast" "$D" sample --numerics quick -o x.png
bad 1 "instruction set 'v9'" "$D" sample --isa v9 -o x.png
bad 1 "knows no classes" "$D" sample --label 3 -o x.png
bad 1 "pinv=2: it is 1" "$D" op -p denoise -i one.npy -o x.npy pinv=2
bad 1 "sigma=0.1.*sigma=0.05" "$D" solve -p inpaint sigma=0.1 -y y.npy -o x.png
bad 1 "mask=box:16.*mask=box:24" "$D" solve -p inpaint mask=box:16 -y y.npy -o x.png
bad 1 "of 'inpaint'" "$D" solve -p denoise -y y.npy -o x.png
bad 1 "records a run of 'measure'" "$D" solve @y.npy.run -o x.png
bad 1 "is both" "$D" solve -y y.npy -o x.png --sheet x.png
bad 1 "is both" "$D" measure -p denoise -i face.png -o face.png
bad 1 "what is 'face.png'" "$D" measure -p denoise face.png -o x.npy
bad 1 "crop, pad or resize" "$D" measure -p denoise -i face.png -o x.npy --fit stretch
bad 1 "HxW" "$D" sample -o x.png --size 64y64
bad 1 "neither a number nor a file" "$D" net -i one.npy -t abc -o x.npy
bad 1 "go together" "$D" op -p denoise -i one.npy -o x.npy --vjp one.npy
printf 'verb=solve\nsolver=dps\nsolver.scal=1\n' >wrong.run
bad 1 "did you mean 'scale'" "$D" solve @wrong.run -y y.npy -o x.png
printf 'verb=solve\nsed=1\n' >wrong.run
bad 1 "did you mean 'seed'" "$D" solve @wrong.run -y y.npy -o x.png

# ---- Refusals: input files -----------------------------------------------------------------

printf 'seed\n' >wrong.run
bad 2 "line 1" "$D" solve @wrong.run -y y.npy -o x.png
bad 2 "nowhere.npy" "$D" solve -y nowhere.npy -o x.png
bad 2 "nowhere.png" "$D" measure -p denoise -i nowhere.png -o x.npy
bad 2 "nowhere.run" "$D" solve @nowhere.run -o x.png
bad 2 "no prior of that name" "$D" sample -w nobody -o x.png
bad 2 "48x48 and 56x56.*--fit.*none" "$D" measure -p denoise -i 50.png -o x.npy
bad 2 "48x48 and 56x56.*--fit" "$D" solve -p denoise -i 50.png -o x.png
bad 2 "nearest sizes" "$D" sample -o x.png --size 50x50
bad 2 "too small to crop" "$D" measure -p denoise -i 50.png --size 64x64 --fit crop -o x.npy
bad 2 "not divisible" "$D" measure -p sr factor=7 -i face.png -o x.npy
half 32 64 >mask32.pgm
bad 2 "32x64.*64x64" "$D" measure -p inpaint mask=mask32.pgm -i face.png -o x.npy
bad 2 "black and white" "$D" measure -p inpaint mask=face.png -i face.png -o x.npy
bad 2 "nomask" "$D" measure -p inpaint mask=nomask -i face.png -o x.npy
good "a measurement without record" "$D" op -p sr factor=4 -i one.npy -o small.npy
bad 1 "needs -p" "$D" solve -y small.npy -o x.png
bad 2 "multiples of 8" "$D" solve -q -p denoise -y 50.png -o x.png
bad 2 "channel" "$D" solve -q -p denoise -y mask.pgm -o x.png
head -c 1000 y.npy >cut.npy
bad 2 "cut.npy" "$D" solve -p denoise -y cut.npy -o x.png
head -c 7 y.npy >cut.npy
bad 2 "cut.npy" "$D" solve -p denoise -y cut.npy -o x.png
{ printf '\223NUMPY\001\000\166\000'; tr 'f<' 'q?' <y.npy | tail -c +11; } >odd.npy
bad 2 "odd.npy" "$D" solve -p denoise -y odd.npy -o x.png
for n in 1 20 50 500; do
    head -c $n face.png >cut.png
    bad 2 "cut.png" "$D" measure -p denoise -i cut.png -o x.npy
done
: >empty.png
bad 2 "empty.png" "$D" measure -p denoise -i empty.png -o x.npy
cp face.png hurt.png
printf '\377\377\377' | dd of=hurt.png bs=1 seek=20 conv=notrunc 2>/dev/null
bad 2 "hurt.png" "$D" measure -p denoise -i hurt.png -o x.npy
cp face.png hurt.png
printf '\125\252' | dd of=hurt.png bs=1 seek=900 conv=notrunc 2>/dev/null
bad 2 "hurt.png" "$D" measure -p denoise -i hurt.png -o x.npy
printf '\377\330\377\340\000\020JFIF' >photo.jpg
bad 2 "JPEG" "$D" measure -p denoise -i photo.jpg -o x.npy
bad 2 "numbers" "$D" net -i one.npy -t three.npy -o x.npy
bad 2 "one shape" "$D" eval face.png 50.png
bad 2 "output's shape" "$D" op -p denoise -i one.npy -o x.npy --vjp a.npy --gx x.gx.npy
bad 1 "noise file ran out" "$D" solve -q -s dps steps=2 -y y.npy -o x.png --noise a.npy

for n in 0 7 64 127 128 5000 100000 1000000; do
    head -c $n "$W" >hurt.unw
    bad 2 "hurt.unw" "$D" sample -w ./hurt.unw -o x.png
    bad 2 "hurt.unw" "$D" info -w hurt.unw
done
for at in 0 9 16 25 48 75 88 96 104 140 300 900 6000 3000000; do
    cp "$W" hurt.unw
    printf '\125\252\125' | dd of=hurt.unw bs=1 seek=$at conv=notrunc 2>/dev/null
    bad 2 "hurt.unw" "$D" sample -w ./hurt.unw -o x.png
done
{ cat "$W"; echo; } >hurt.unw
bad 2 "hurt.unw" "$D" sample -w ./hurt.unw -o x.png
bad 2 "face.png" "$D" sample -w face.png -o x.png
bad 2 "not a file" "$D" sample -w . -o x.png

# ---- Refusals: memory, outputs -------------------------------------------------------------

if (ulimit -v 500000 && "$D" --version) >/dev/null 2>&1; then
    bad 3 "memory" sh -c "ulimit -v 500000
        exec '$D' sample --threads 1 -q -n 8 --size 2048x2048 -o x.png"
else
    echo "test_cli: this shell or build can't limit memory; that check was left out"
fi
bad 6 "no folder" "$D" sample -o nowhere/x.png
bad 6 "no folder" "$D" solve -y y.npy -o x.png --sheet nowhere/s.png
bad 6 "no folder" "$D" solve -y y.npy -o x.png --trace nowhere/t.tsv
mkdir -p folder.png
bad 6 "folder" "$D" sample -o folder.png
bad 6 "format" "$D" sample -o x.gif
bad 6 "no folder" "$D" measure -p denoise -i face.png -o face.png/x.npy
if [ -c /dev/full ]; then
    "$D" list solvers >/dev/full 2>err
    [ $? -eq 6 ] && yes || no "a full standard output is exit code 6"
fi

# ---- The lines of the help and of the README ------------------------------------------------

# said FOLDER LINE: runs it there beside face.png, y.npy, out.png and x.npy, with fewer steps
mkdir -p said
cp face.png y.npy y.npy.run out.png out.png.run said
cp one.npy said/x.npy
ln -s "$D" said/diffinv
said() {
    line=$(echo "$1" | sed 's/  *#.*//')
    case $line in
    *"-s dmplug"*) line="$line solver.iters=2 solver.es=no" ;;
    *"-s dps_mo"*) line="$line solver.steps=4" ;;
    *" sample "*) line="$line solver.steps=2" ;;
    esac
    # shellcheck disable=SC2086
    (cd said && PATH=$PWD:$PATH && $line) >out 2>err && yes || {
        no "this line of the help or the README fails: $line"
        sed 's/^/    /' err
    }
}
for verb in measure solve sample eval info list view net op make selftest; do
    "$D" $verb --help | sed -n '2,$s/^  diffinv /diffinv /p' >lines
    [ -s lines ] && yes || no "$verb --help shows no line that works"
    cp y.npy y.npy.run out.png out.png.run said
    while read -r line; do said "$line"; done <lines
done
"$D" --help | sed -n 's/^  \(diffinv .* -.*\)/\1/p' >lines
rm -f said/y.npy* said/out*
while read -r line; do said "$line"; done <lines
rm -f said/*.npy said/*.run said/out.png
sed -n '/^## Restoring a picture/,/^`diffinv VERB/s|^    \./diffinv|./diffinv|p' "$README" >lines
[ "$(wc -l <lines)" -ge 8 ] && yes || no "the README's lines are not where they were"
while read -r line; do said "$line"; done <lines

# ---- The interrupt -------------------------------------------------------------------------

# start_long: a long run in the background that has done its first step
start_long() {
    rm -f long.*
    "$D" solve -v -s dps steps=1000 -y y.npy -o long.png --trace long.tsv >out 2>err &
    pid=$!
    tries=0
    until grep -q 'step 2/' err || [ $tries -gt 300 ]; do
        sleep 0.1 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
}
start_long
kill -INT $pid
wait $pid
[ $? -eq 5 ] && yes || no "an interrupt is exit code 5"
exists long.png
holds long.png.run '^info.status=interrupted$'
exists long.tsv
holds err "interrupted at step"
good "the estimate is a picture" "$D" eval long.png face.png
start_long
kill -INT $pid
kill -TERM $pid
wait $pid
[ $? -eq 5 ] && yes || no "two interrupts are exit code 5"
ls ./*.tmp* >/dev/null 2>&1 && no "an interrupt left a temporary file" || yes

echo "$pass passed, $fail failed"
[ "$fail" -eq 0 ]
