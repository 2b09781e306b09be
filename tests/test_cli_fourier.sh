#!/bin/sh
# The command with phase retrieval, magnetic resonance, inverse scattering and the network that
# blurs: what works, what is refused and how. From the root of the tree:
#   sh tests/test_cli_fourier.sh ./diffinv build/float/tests/nblur
# The second program writes the network's file (nblur -o FILE).

# shellcheck source=tests/cli.sh
. tests/cli.sh
case ${2:-build/float/tests/nblur} in
/*) M=${2:-build/float/tests/nblur} ;;
*) M=$ROOT/${2:-build/float/tests/nblur} ;;
esac
[ -x "$M" ] || { echo "test_cli_fourier: no program at $M"; exit 1; }

# field FILE SHAPE N EXPRESSION: an array, value i by an awk expression
field() {
    # shellcheck disable=SC2046
    npy "$1" "$2" $(formula "$3" "$4")
}
# shape FILE: as the header says it
shape() { head -c 128 "$1" | LC_ALL=C sed -n "s/.*'shape': (\([^)]*\)).*/\1/p"; }
is_shape() {
    if [ "$(shape "$1")" = "$2" ]; then yes; else no "$1 is $(shape "$1"), not $2"; fi
}

for p in phase mri scatter nblur; do
    good "list problems" "$D" list problems --defaults
    holds out "^$p "
done
field x1.npy "1, 16, 16" 256 "sin(i * 0.37)"
field x2.npy "2, 16, 20" 640 "sin(i * 0.21)"
field x3.npy "3, 12, 16" 576 "sin(i * 0.11)"
field mean1.npy "1, 16, 16" 256 0
field cov1.npy "1, 16, 16" 256 0.25
field mean2.npy "2, 16, 20" 640 0
field cov2.npy "2, 16, 20" 640 0.25
field mean3.npy "3, 12, 16" 576 0
field cov3.npy "3, 12, 16" 576 0.25
G1="gauss:mean1.npy,cov1.npy" G2="gauss:mean2.npy,cov2.npy" G3="gauss:mean3.npy,cov3.npy"

# ---- Phase retrieval -----------------------------------------------------------------------

good "phase" "$D" measure -p phase -i x3.npy -w none -o p.npy
is_shape p.npy "3, 20, 24"
good "phase, solved: the image's shape from the measurement's" \
    "$D" solve -s dps steps=5 -p phase -w "$G3" -y p.npy -o po.npy --sheet ps.png
is_shape po.npy "3, 12, 16"
good "phase, daps" "$D" op -p phase input=daps -i x3.npy -o pd.npy --vjp p.npy --gx pg.npy
is_shape pg.npy "3, 12, 16"
differ "the two inputs" p.npy pd.npy
good "phase, no padding" "$D" op -p phase oversample=0 -i x3.npy -o p0.npy
is_shape p0.npy "3, 12, 16"
good "phase, another padding" "$D" measure -p phase oversample=3.3 -i x3.npy -w none -o p3.npy
is_shape p3.npy "3, 24, 28"
good "and back" "$D" solve -s dps steps=2 -w "$G3" -y p3.npy -o po.npy
bad 1 "no pseudo-inverse" "$D" op -p phase --pinv -i p.npy -o x.npy
field q.npy "3, 12, 29" 1044 1
bad 2 "no image has measurements of 12x29" "$D" solve -p phase -w "$G3" -y q.npy -o x.npy
bad 1 "oversample=-1 is out of range" "$D" op -p phase oversample=-1 -i x3.npy -o x.npy
bad 1 "input=ddrm is unknown: give one of dps|daps" "$D" op -p phase input=ddrm -i x3.npy \
    -o x.npy
bad 1 "did you mean 'oversample'" "$D" op -p phase oversampl=2 -i x3.npy -o x.npy

# ---- Magnetic resonance --------------------------------------------------------------------

good "mri" "$D" measure -p mri accel=2 sigma=0.01 -i x2.npy -w none -o m.npy
is_shape m.npy "8, 16, 20"
good "mri, other columns" "$D" measure -p mri accel=2 sigma=0.01 pseed=1 -i x2.npy -w none -o \
    m1.npy
differ "pseed" m.npy m1.npy
good "mri, equispaced" "$D" measure -p mri mask=equispaced -i x2.npy -w none -o m2.npy
good "mri, solved" "$D" solve -s dps steps=5 -w "$G2" -y m.npy -o mo.npy
is_shape mo.npy "2, 16, 20"
good "mri, one coil" "$D" measure -p mri ncoils=1 accel=2 sigma=0.01 -i x2.npy -w none -o m1.npy
good "mri, one coil, has an SVD" "$D" solve -s ddnm steps=5 -w "$G2" -y m1.npy -o mo.npy
good "mri, its pseudo-inverse" "$D" op -p mri ncoils=1 accel=2 --pinv -i m1.npy -o mp.npy
is_shape mp.npy "2, 16, 20"
bad 1 "no pseudo-inverse" "$D" op -p mri accel=2 --pinv -i m.npy -o x.npy
field c.npy "4, 16, 20" 1280 "cos(i * 0.01)"
field k.npy "20" 20 "i % 3 == 0"
good "mri, maps and columns of files" "$D" op -p mri coils=c.npy mask=k.npy -i x2.npy -o mf.npy
is_shape mf.npy "4, 16, 20"
bad 2 "two channels, its real and its imaginary part, not 3" "$D" op -p mri -i x3.npy -o x.npy
field c3.npy "3, 16, 20" 960 1
bad 2 "are (2K,16,20)" "$D" op -p mri coils=c3.npy -i x2.npy -o x.npy
field c4.npy "4, 20, 16" 1280 1
bad 2 "are (2K,16,20)" "$D" op -p mri coils=c4.npy -i x2.npy -o x.npy
field cn.npy "2, 16, 20" 640 'i == 5 ? "nan" : 1'
bad 2 "cn.npy: the coil maps hold NaN" "$D" op -p mri coils=cn.npy -i x2.npy -o x.npy
field cz.npy "2, 16, 20" 640 0
bad 2 "zero everywhere" "$D" op -p mri coils=cz.npy accel=2 -i x2.npy -o x.npy
bad 2 "nofile.npy" "$D" op -p mri coils=nofile.npy accel=2 -i x2.npy -o x.npy
field k0.npy "20" 20 0
bad 2 "keeps no column" "$D" op -p mri mask=k0.npy -i x2.npy -o x.npy
field k2.npy "20" 20 "i / 4"
bad 2 "holds 0.25 at column 1" "$D" op -p mri mask=k2.npy -i x2.npy -o x.npy
field k3.npy "19" 19 1
bad 2 "20 columns wide is (20)" "$D" op -p mri mask=k3.npy -i x2.npy -o x.npy
bad 1 "more than the 2 that accel=10" "$D" op -p mri accel=10 center=3 -i x2.npy -o x.npy
bad 1 "leaves no column of 20" "$D" op -p mri accel=30 center=0 -i x2.npy -o x.npy
bad 1 "center=30: give auto or at most the 20" "$D" op -p mri center=30 -i x2.npy -o x.npy
bad 1 "ncoils=0 is out of range" "$D" op -p mri ncoils=0 -i x2.npy -o x.npy
bad 2 "problem mri measures 6x16x20" "$D" solve -p mri ncoils=3 accel=2 -w "$G2" -y mf.npy -o \
    x.npy
bad 2 "pictures with 2 channels, the prior" "$D" solve -s dps -p mri -w "$G1" -y mf.npy -o x.npy

# ---- Inverse scattering --------------------------------------------------------------------

good "scatter" "$D" measure -p scatter transmitters=3 receivers=7 -i x1.npy -w none -o s.npy
is_shape s.npy "2, 3, 7"
good "scatter, without noise" "$D" measure -p scatter transmitters=3 receivers=7 sigma=0 -i \
    x1.npy -w none -o s0.npy
good "scatter, op" "$D" op -p scatter transmitters=3 receivers=7 -i x1.npy -o s1.npy --vjp \
    s.npy --gx sg.npy
same "op is noise-free" s0.npy s1.npy
differ "noise" s.npy s1.npy
is_shape sg.npy "1, 16, 16"
good "scatter, solved: the shape is the prior's" "$D" solve -s dps steps=5 -w "$G1" -y s.npy \
    -o so.npy --sheet ss.png
is_shape so.npy "1, 16, 16"
bad 2 "square and has one channel, not 2x16x20" "$D" op -p scatter -i x2.npy -o x.npy
bad 1 "stand around the object" "$D" op -p scatter radius=0.1 -i x1.npy -o x.npy
bad 1 "1e6 radians" "$D" op -p scatter wave=0.0001 -i x1.npy -o x.npy
bad 1 "receivers=0 is out of range" "$D" op -p scatter receivers=0 -i x1.npy -o x.npy
bad 1 "no pseudo-inverse" "$D" op -p scatter transmitters=3 receivers=7 --pinv -i s.npy -o x.npy
bad 1 "linear" "$D" solve -s ddnm -w "$G1" -y s.npy -o x.npy

# ---- The network that blurs ----------------------------------------------------------------

"$M" -o b.unw >out 2>&1 && [ -s b.unw ] && yes || no "no weight file of the network that blurs"
field x128.npy "3, 128, 128" 49152 "sin(i * 0.001)"
good "nblur" "$D" op -p nblur net=b.unw -i x128.npy -o n.npy --vjp x128.npy --gx ng.npy
is_shape n.npy "3, 128, 128"
good "nblur again" "$D" op -p nblur net=b.unw latent=fixed pseed=0 -i x128.npy -o n2.npy
same "one latent" n.npy n2.npy
good "nblur, another latent" "$D" op -p nblur net=b.unw pseed=1 -i x128.npy -o n3.npy
differ "pseed" n.npy n3.npy
field l.npy "128, 1, 1" 128 "i / 64 - 1"
good "nblur, a latent of a file" "$D" measure -p nblur net=b.unw latent=l.npy -i x128.npy -w \
    none -o n4.npy
differ "latents" n.npy n4.npy
field mean.npy "3, 128, 128" 49152 "0"
field var.npy "3, 128, 128" 49152 "0.25"
G3=gauss:mean.npy,var.npy
good "nblur, its memory" "$D" info -w $G3 -p nblur net=b.unw -s dps
awk '/^peak bytes, solve/ && $4 > 20e6 { ok = 1 } END { exit !ok }' out && yes ||
    no "its network counts: $(cat out)"
bad 3 "this run needs" "$D" solve -s dps steps=1 -w $G3 -p nblur net=b.unw \
    -y x128.npy -o x.npy --mem 20M
bad 1 "needs its network: net=FILE.unw" "$D" op -p nblur -i x128.npy -o x.npy
bad 2 "nofile.unw: can't read" "$D" op -p nblur net=nofile.unw -i x128.npy -o x.npy
bad 2 "x128.npy: weight file: not a UNW1 file" "$D" op -p nblur net=x128.npy -i x128.npy -o x.npy
mkfifo pipe
bad 2 "pipe: not a file" "$D" op -p nblur net=pipe -i x128.npy -o x.npy
bad 2 ".: not a file" "$D" op -p nblur net=. -i x128.npy -o x.npy
bad 2 "12x16: height and width must be multiples of 128" "$D" op -p nblur net=b.unw -i x3.npy \
    -o x.npy
bad 2 "colour pictures, not ones with 1 channel" "$D" op -p nblur net=b.unw -i x1.npy -o x.npy
bad 2 "is 1x16x16, the latent of this network and image is 128x1x1" "$D" op -p nblur \
    net=b.unw latent=x1.npy -i x128.npy -o x.npy
field ln.npy "128, 1, 1" 128 '"nan"'
bad 2 "ln.npy: the values of the latent hold NaN" "$D" op -p nblur net=b.unw latent=ln.npy -i \
    x128.npy -o x.npy
bad 2 "blurs (problem nblur, net=)" "$D" info -w "$T/b.unw"
bad 2 "dps.unw: weight file: format.kind=unet2d is a network that denoises" "$D" \
    op -p nblur net="$OLDPWD/tests/vectors/dps.unw" -i x128.npy -o x.npy

echo "$pass passed, $fail failed"
[ $fail = 0 ]
