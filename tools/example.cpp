// example.cpp - a hole in a picture filled from C++11, with the library's objects owned by RAII.
//   c++ -std=c++11 example.cpp $(pkg-config --cflags --libs diffinv) -o example
//   ./example portraits64.unw [STEPS]
#include <diffinv.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Objects belong to their context and die with it; closing a run or a network early is possible.
struct Closer {
    void operator()(di_ctx *p) const { di_close(p); }
    void operator()(di_net *p) const { di_net_close(p); }
    void operator()(di_run *p) const { di_run_close(p); }
};
using Context = std::unique_ptr<di_ctx, Closer>;
using Network = std::unique_ptr<di_net, Closer>;
using Run = std::unique_ptr<di_run, Closer>;

class Error : public std::runtime_error {
public:
    Error(di_status status, const std::string &what) : std::runtime_error(what), status_(status) {}
    di_status status() const { return status_; }

private:
    di_status status_;
};

void check(const Context &ctx, di_status status)
{
    if (status != DI_OK)
        throw Error(status, di_error(ctx.get()));
}

Context open_context()
{
    di_ctx *raw = nullptr;
    const di_status status = di_open(&raw, nullptr, nullptr);
    Context ctx(raw);
    if (status != DI_OK)
        throw Error(status, raw ? di_error(raw) : "no context");
    return ctx;
}

// No exception may cross the library, which is C: the callbacks return a number.
extern "C" int read_at(void *user, std::uint64_t offset, void *dst, std::size_t n)
{
    std::ifstream &file = *static_cast<std::ifstream *>(user);
    file.clear();
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(static_cast<char *>(dst), static_cast<std::streamsize>(n));
    return file ? 0 : 1;
}

extern "C" int progress(void *, const di_step *s)
{
    std::cerr << "step " << s->step << " of " << s->steps << ", residual " << s->residual << '\n';
    return 0; // anything else stops; the estimate so far stays
}

Network open_network(const Context &ctx, const std::string &path)
{
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file)
        throw Error(DI_EINPUT, path + ": can't read");
    const auto size = static_cast<std::uint64_t>(file.tellg());
    di_net *raw = nullptr;
    check(ctx, di_net_open(ctx.get(), read_at, &file, size, 0, &raw));
    return Network(raw);
}

void restore(const std::string &path, const std::string &steps)
{
    const int side = 64;
    const std::size_t pixels = 64 * 64;
    Context ctx = open_context();
    Network net = open_network(ctx, path);
    std::vector<di_real> mask(pixels, 1), y(3 * pixels, 0), x(3 * pixels);
    for (std::size_t i = 0; i < pixels; i++) // the right half is missing; the rest is a ramp
        mask[i] = i % side < side / 2;
    for (std::size_t i = 0; i < y.size(); i++)
        y[i] = mask[i % pixels] * static_cast<di_real>(static_cast<double>(i % side) / side - 0.5);

    di_prior *prior = nullptr; // these two are the context's
    di_problem *problem = nullptr;
    check(ctx, di_prior_net(net.get(), side, side, &prior));
    check(ctx, di_problem_inpaint(ctx.get(), 3, side, side, mask.data(), &problem));

    di_run *raw = nullptr;
    check(ctx, di_run_open(ctx.get(), di_solver_find("dps"), prior, problem, &raw));
    Run run(raw);
    check(ctx, di_run_set(run.get(), "steps", steps.c_str()));
    di_run_report(run.get(), progress, nullptr);
    check(ctx, di_run_go(run.get(), y.data(), 0, 0, 1, x.data()));

    std::vector<di_real> work(y.size());
    std::cout << "network calls " << di_run_cost(run.get()).net << ", residual "
              << di_residual(problem, x.data(), y.data(), work.data()) << ", first pixel " << x[0]
              << '\n';
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::cerr << "example WEIGHTS.unw [STEPS]\n";
        return DI_EUSAGE;
    }
    try {
        restore(argv[1], argc > 2 ? argv[2] : "4");
    } catch (const Error &e) {
        std::cerr << "example: " << e.what() << '\n';
        return e.status();
    } catch (const std::exception &e) {
        std::cerr << "example: " << e.what() << '\n';
        return DI_EMEMORY;
    }
    return 0;
}
