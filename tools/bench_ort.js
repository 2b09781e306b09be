#!/usr/bin/env node
'use strict';
/* Times diffinv against ONNX Runtime on the same network, in turns; forward passes only.

       npm install onnxruntime-node            (anywhere; --ort says where)
       make bench
       tools/bench_torch.py WEIGHTS.unw SIZE --onnx NET.onnx
       tools/bench_ort.js WEIGHTS.unw SIZE --onnx NET.onnx [--ort FOLDER] [--threads 1]
                          [--class exact|fast] [--n 1] [--pairs 5] [--bench build/float/bench]
                          [--level all|extended|basic] [--spin run|always|never]
                          [--pages huge|plain]

   NET.onnx has its batch and size fixed: make it with the same --n and SIZE. First the outputs
   are compared, then the two run in turns; a ratio is taken within each pair, so that a slow
   minute of the machine falls on both. --spin run lets threads spin within a pass but not
   after it, when the other side is being timed; never is faster where other programs run.
   --level: how far the graph is optimised; all includes convolutions in blocks of channels. */
const childProcess = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const readline = require('readline');

function die(text) {
    process.stderr.write('bench_ort.js: ' + text + '\n');
    process.exit(1);
}

function parse(argv) {
    const options = { onnx: '', ort: '.', threads: '1', class: 'exact', n: '1', pairs: '5',
                      bench: 'build/float/bench', level: 'all', spin: 'run', pages: 'huge' };
    const choices = { class: ['exact', 'fast'], level: ['all', 'extended', 'basic'],
                      spin: ['run', 'always', 'never'], pages: ['huge', 'plain'] };
    const plain = [];
    for (let i = 0; i < argv.length; i++) {
        const key = argv[i].slice(2);
        if (!argv[i].startsWith('--'))
            plain.push(argv[i]);
        else if (!(key in options) || i + 1 === argv.length)
            die(`unknown option ${argv[i]}, or nothing after it; see the head of this file`);
        else
            options[key] = argv[++i];
    }
    for (const key in choices)
        if (!choices[key].includes(options[key]))
            die(`--${key} is one of ${choices[key].join(', ')}`);
    for (const key of ['threads', 'n', 'pairs'])
        if (!((options[key] = Number(options[key])) >= 1))
            die(`--${key} is a number from 1`);
    if (plain.length !== 2 || !options.onnx)
        die('give WEIGHTS.unw, SIZE and --onnx NET.onnx; the head of this file says more');
    return Object.assign(options, { weights: plain[0], size: Number(plain[1]) });
}

/* The C library reads this once: large pages behind large tensors. */
function startAgain(args) {
    if (args.pages === 'plain' || process.env.DIFFINV_BENCH)
        return;
    const env = { ...process.env, DIFFINV_BENCH: '1',
                  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' };
    const run = childProcess.spawnSync(process.execPath, process.argv.slice(1),
                                       { stdio: 'inherit', env });
    process.exit(run.status === null ? 1 : run.status);
}

/* bench serve as a child; see tools/bench.c. Every line it is sent gets one line in answer. */
class Ours {
    constructor(args) {
        const env = { ...process.env };
        delete env.GLIBC_TUNABLES;
        this.child = childProcess.spawn(args.bench, [
            'serve', args.weights, String(args.size), `threads=${args.threads}`,
            `class=${args.class}`, `n=${args.n}`], { stdio: ['pipe', 'pipe', 'inherit'], env });
        this.child.on('error', () => die(`cannot start ${args.bench}; make bench builds it`));
        const lines = readline.createInterface({ input: this.child.stdout });
        this.lines = lines[Symbol.asyncIterator]();
    }

    async answer() {
        const { value, done } = await this.lines.next();
        if (done || value.startsWith('error'))
            die('bench serve: ' + (done ? 'ended' : value));
        return value;
    }

    ask(line) {
        this.child.stdin.write(line + '\n');
        return this.answer();
    }
}

function normals(count) {
    const out = new Float32Array(count);
    let state = 1;
    const uniform = () => {
        state = Math.imul(state, 1664525) + 1013904223 >>> 0;
        return (state + 0.5) / 4294967296;
    };
    for (let i = 0; i < count; i++)
        out[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    return out;
}

function floats(file) {
    const data = fs.readFileSync(file);
    return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
}

/* The largest difference, of the largest value. */
function error(ours, theirs) {
    let worst = 0, largest = 0;
    for (let i = 0; i < theirs.length; i++) {
        worst = Math.max(worst, Math.abs(ours[i] - theirs[i]));
        largest = Math.max(largest, Math.abs(theirs[i]));
    }
    return ours.length === theirs.length ? worst / largest : Infinity;
}

function peakMemory() {
    try {
        return 1024 * /^VmHWM:\s*(\d+)/m.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1];
    } catch (_) {
        return 1024 * process.resourceUsage().maxRSS;
    }
}

function median(list) {
    const a = [...list].sort((x, y) => x - y), k = a.length >> 1;
    return a.length % 2 ? a[k] : (a[k - 1] + a[k]) / 2;
}

function runtime(folder) {
    for (const place of [path.resolve(folder, 'node_modules', 'onnxruntime-node'),
                         'onnxruntime-node']) {
        try {
            return require(place);
        } catch (_) {
            continue;
        }
    }
    return die('no onnxruntime-node; npm install onnxruntime-node somewhere, --ort says where');
}

async function main(args) {
    const ort = runtime(args.ort);
    const ours = new Ours(args);
    if (await ours.answer() !== 'ready')
        die('bench serve: does not start');
    const facts = Object.fromEntries((await ours.ask('i')).split(' ').map(w => w.split('=')));
    const spin = { run: { intra_op: { allow_spinning: '1' }, force_spinning_stop: '1' },
                   always: { intra_op: { allow_spinning: '1' } },
                   never: { intra_op: { allow_spinning: '0' } } }[args.spin];
    const session = await ort.InferenceSession.create(args.onnx, {
        executionProviders: ['cpu'], graphOptimizationLevel: args.level,
        intraOpNumThreads: args.threads, interOpNumThreads: 1, executionMode: 'sequential',
        enableCpuMemArena: true, enableMemPattern: true, logSeverityLevel: 3,
        extra: { session: spin } });
    const shape = [args.n, Number(facts.in), args.size, args.size];
    const x = normals(shape.reduce((a, b) => a * b));
    const feed = { x: new ort.Tensor('float32', x, shape),
                   t: new ort.Tensor('float32', new Float32Array(args.n).fill(500), [args.n]) };
    let y;
    const theirs = async () => {
        const start = process.hrtime.bigint();
        y = (await session.run(feed)).y.data;
        return Number(process.hrtime.bigint() - start) / 1e9;
    };
    const plural = count => count > 1 ? 's' : '';
    console.log(`ONNX Runtime ${ort.env.versions.node}, level ${args.level}, spin `
                + `${args.spin}, pages ${args.pages}; ${args.threads} thread`
                + `${plural(args.threads)}, ${args.n} image${plural(args.n)} of ${args.size}x`
                + `${args.size}, class ${args.class}\n`
                + `diffinv ${facts.version}, kernels ${facts.isa}, ${facts.real}`);

    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench_ort-'));
    const file = path.join(folder, 'raw');
    try {
        fs.writeFileSync(file, Buffer.from(x.buffer));
        await ours.ask('x ' + file);
        await theirs();
        await ours.ask('f');
        await ours.ask('y ' + file);
        const worst = error(floats(file), y);
        console.log(`forward: largest difference ${worst.toExponential(1)} of the largest `
                    + 'value');
        if (!(worst < 0.01))
            die('not the same network: make the .onnx from these weights, this size and n');
    } finally {
        fs.rmSync(folder, { recursive: true });
    }

    const a = [], b = [];
    for (let i = 0; i < args.pairs; i++) {
        a.push(Number(await ours.ask('f')));
        b.push(await theirs());
    }
    const memory = [Number(await ours.ask('m')), peakMemory()];
    [['diffinv', a], ['ort', b]].forEach(([who, seconds], i) => {
        const middle = median(seconds), rate = 2e-9 * facts.macs / middle;
        console.log(`  ${who.padEnd(8)} median ${middle.toFixed(3).padStart(8)} s, best `
                    + `${Math.min(...seconds).toFixed(3).padStart(8)} s, `
                    + `${rate.toFixed(1).padStart(6)} GFLOP/s, peak memory `
                    + `${(memory[i] / 1e6).toFixed(0).padStart(6)} MB`);
    });
    const ratios = a.map((mine, i) => b[i] / mine);
    console.log(`  ort / diffinv: median of ${args.pairs} pairs ${median(ratios).toFixed(3)}, `
                + `${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}`);
    ours.child.stdin.end();
}

const args = parse(process.argv.slice(2));
startAgain(args);
main(args).catch(fault => die(String(fault && fault.message || fault).split('\n')[0]));
