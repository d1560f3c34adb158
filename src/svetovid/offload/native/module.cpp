// What Python sees: arrays are checked, the work is split over threads, the interpreter goes on.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cfenv>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "path.hpp"
#include "sbox.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using svetovid::BLOCK;
using svetovid::Path;

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using To = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Coefficients = std::vector<std::vector<std::int64_t>>;

constexpr std::size_t LARGE = 1 << 20;  // elements: results of so many leave the caches anyway

void require(bool holds, const char *what) {
  if (!holds) throw std::invalid_argument(what);
}

std::vector<const Path *> available() {
  std::vector<const Path *> found;
#ifdef SVETOVID_X86
  __builtin_cpu_init();
  const bool aes = __builtin_cpu_supports("aes") && __builtin_cpu_supports("avx2");
  if (aes && __builtin_cpu_supports("vaes") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(&svetovid::AVX512);
  if (aes) found.push_back(&svetovid::AVX2);
#endif
  found.push_back(&svetovid::PORTABLE);
  return found;
}

const Path &path_of(const std::string &name) {
  for (const Path *path : available())
    if (name == path->name) return *path;
  throw std::invalid_argument("path");
}

// Round keys, which are wiped at the end.
class Keys {
 public:
  explicit Keys(const std::vector<nb::bytes> &keys) : keys_(keys.size()) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      require(keys[i].size() == 32, "key");
      expand_key(static_cast<const std::uint8_t *>(keys[i].data()), keys_[i]);
    }
  }
  Keys(const Keys &) = delete;
  Keys &operator=(const Keys &) = delete;
  ~Keys() {
    std::memset(keys_.data(), 0, keys_.size() * sizeof keys_[0]);
    asm volatile("" : : "r"(keys_.data()) : "memory");
  }
  const svetovid::RoundKeys *data() const { return keys_.data(); }
  std::size_t size() const { return keys_.size(); }

 private:
  std::vector<svetovid::RoundKeys> keys_;
};

// Rounds to nearest even and keeps subnormal numbers, whatever the caller's thread does.
class Arithmetic {
 public:
  Arithmetic() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  Arithmetic(const Arithmetic &) = delete;
  Arithmetic &operator=(const Arithmetic &) = delete;
  ~Arithmetic() { std::fesetenv(&before_); }

 private:
  std::fenv_t before_;
};

// Splits n elements into as many ranges as threads, at multiples of `grain`, without the GIL.
template <typename Work>
void spread(std::size_t n, std::size_t grain, std::size_t threads, const Work &work) {
  nb::gil_scoped_release released;
  const std::size_t grains = (n + grain - 1) / grain;
  if (threads > grains) threads = grains ? grains : 1;
  const auto range = [&](std::size_t thread) {
    const Arithmetic arithmetic;
    const std::size_t begin = grains * thread / threads * grain;
    const std::size_t end = grains * (thread + 1) / threads * grain;
    work(thread, begin, end < n ? end : n);
  };
  std::vector<std::thread> others;
  try {
    for (std::size_t i = 1; i < threads; ++i) others.emplace_back(range, i);
  } catch (...) {
    for (std::thread &other : others) other.join();
    throw;
  }
  range(0);
  for (std::thread &other : others) other.join();
}

std::vector<std::string> paths() {
  std::vector<std::string> names;
  for (const Path *path : available()) names.emplace_back(path->name);
  return names;
}

std::uint32_t absmax(const std::string &path, In<float> x, std::size_t threads) {
  const Path &on = path_of(path);
  std::vector<std::uint32_t> found(threads);
  const float *from = x.data();
  spread(x.size(), BLOCK, threads, [&](std::size_t thread, std::size_t begin, std::size_t end) {
    found[thread] = on.absmax(from, begin, end);
  });
  std::uint32_t greatest = 0;
  for (std::uint32_t bits : found) greatest = bits > greatest ? bits : greatest;
  return greatest;
}

void expand(const std::string &path, nb::bytes key, std::uint32_t p, To<std::int32_t> out,
            std::size_t threads) {
  const Path &on = path_of(path);
  const Keys keys({key});
  std::int32_t *to = out.data();
  const bool large = out.size() >= LARGE;
  spread(out.size(), BLOCK, threads, [&](std::size_t, std::size_t begin, std::size_t end) {
    on.expand(*keys.data(), p, to, large, begin, end);
  });
}

// With x, qs is the one array that it is quantised to.
bool mix(const std::string &path, const std::vector<In<float>> &x, int shift,
         const std::vector<nb::bytes> &rounding, const std::vector<To<std::int16_t>> &qs,
         const std::vector<nb::bytes> &masks, std::uint32_t p,
         const std::vector<To<std::int32_t>> &outs, const Coefficients &of_masks,
         const Coefficients &of_qs, std::size_t threads) {
  const Path &on = path_of(path);
  const Keys mask_keys(masks), rounding_keys(rounding);
  require(qs.size() >= 1 && qs.size() <= 8 && masks.size() <= 8, "count");
  require(x.size() <= 1 && x.size() == rounding.size() && (x.empty() || qs.size() == 1), "x");
  const std::size_t n = qs[0].size();
  require(x.empty() || x[0].size() == n, "size of x");
  std::vector<std::int16_t *> q(qs.size());
  for (std::size_t i = 0; i < qs.size(); ++i) {
    require(qs[i].size() == n, "size of q");
    q[i] = qs[i].data();
  }
  require(of_masks.size() == outs.size() && of_qs.size() == outs.size(), "coefficients");
  std::vector<svetovid::Out> wanted(outs.size());
  for (std::size_t i = 0; i < outs.size(); ++i) {
    require(outs[i].size() == n, "size of out");
    require(of_masks[i].size() == masks.size() && of_qs[i].size() == qs.size(), "coefficients");
    wanted[i] = {outs[i].data(), of_masks[i].data(), of_qs[i].data()};
  }
  const svetovid::Mix what = {
      x.empty() ? nullptr : x[0].data(), shift, rounding_keys.data(), q.data(), q.size(),
      mask_keys.data(), mask_keys.size(), wanted.data(), wanted.size(), p, n >= LARGE};
  std::vector<char> good(threads, 1);
  spread(n, BLOCK, threads, [&](std::size_t thread, std::size_t begin, std::size_t end) {
    good[thread] = on.mix(what, begin, end);
  });
  for (char each : good)
    if (!each) return false;
  return true;
}

std::uint64_t combine(const std::string &path, const std::vector<In<std::int32_t>> &answers,
                      const std::vector<std::int64_t> &coefficients, std::size_t parts,
                      std::uint32_t p, int shift, To<float> out,
                      const std::vector<To<std::int32_t>> &narrow,
                      const std::vector<To<std::int64_t>> &wide, std::size_t threads) {
  const Path &on = path_of(path);
  const std::size_t n = out.size();
  require(answers.size() == coefficients.size() && answers.size() <= 64, "answers");
  require(parts >= 1 && parts <= 1 << 22, "parts");
  std::vector<const std::int32_t *> from(answers.size());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    require(answers[i].size() == parts * n, "size of an answer");
    from[i] = answers[i].data();
  }
  require(narrow.size() + wide.size() <= 1, "integers");
  require(narrow.empty() || narrow[0].size() == parts * n, "size of integers");
  require(wide.empty() || wide[0].size() == n, "size of integers");
  const svetovid::Combine what = {
      from.data(), coefficients.data(), from.size(), parts, n, p, shift, out.data(),
      narrow.empty() ? nullptr : narrow[0].data(), wide.empty() ? nullptr : wide[0].data(),
      n >= LARGE};
  std::vector<std::uint64_t> bad(threads);
  spread(n, BLOCK, threads, [&](std::size_t thread, std::size_t begin, std::size_t end) {
    bad[thread] = on.combine(what, begin, end);
  });
  std::uint64_t any = 0;
  for (std::uint64_t each : bad) any |= each;
  return any;
}

template <typename T>
void contract(const std::string &path, In<T> values, std::size_t k, std::size_t length,
              In<std::int32_t> weights, std::uint32_t p, To<std::int32_t> out,
              std::size_t threads) {
  const Path &on = path_of(path);
  require(length > 0 && weights.size() == k && out.size() % length == 0, "shape");
  const std::size_t outer = out.size() / length;
  require(values.size() == outer * k * length, "size of values");
  std::vector<std::int32_t> centred(k), each;
  for (std::size_t i = 0; i < k; ++i) {
    const std::int32_t w = weights.data()[i];
    require(w >= 0 && std::uint32_t(w) < p, "weight");
    centred[i] = std::uint32_t(w) > (p - 1) / 2 ? std::int32_t(w - std::int64_t(p)) : w;
  }
  const bool brief = length < svetovid::SHORT;
  if (brief)
    for (std::int32_t w : centred) each.insert(each.end(), length, w);
  const svetovid::Contract what = {values.data(), k, length, centred.data(),
                                   brief ? each.data() : nullptr, p, out.data()};
  const auto work = sizeof(T) == 2 ? on.contract16 : on.contract32;
  const std::size_t tiles = brief ? 1 : (length + svetovid::TILE - 1) / svetovid::TILE;
  spread(outer * tiles, 1, threads, [&](std::size_t, std::size_t begin, std::size_t end) {
    work(what, begin, end);
  });
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("paths", &paths);
  m.def("absmax", &absmax, "path"_a, "x"_a.noconvert(), "threads"_a);
  m.def("expand", &expand, "path"_a, "key"_a, "p"_a, "out"_a.noconvert(), "threads"_a);
  m.def("mix", &mix, "path"_a, "x"_a.noconvert(), "shift"_a, "rounding"_a, "qs"_a.noconvert(),
        "masks"_a, "p"_a, "outs"_a.noconvert(), "of_masks"_a, "of_qs"_a, "threads"_a);
  m.def("combine", &combine, "path"_a, "answers"_a.noconvert(), "coefficients"_a, "parts"_a, "p"_a,
        "shift"_a, "out"_a.noconvert(), "narrow"_a.noconvert(), "wide"_a.noconvert(), "threads"_a);
  m.def("contract16", &contract<std::int16_t>, "path"_a, "values"_a.noconvert(), "k"_a, "length"_a,
        "weights"_a.noconvert(), "p"_a, "out"_a.noconvert(), "threads"_a);
  m.def("contract32", &contract<std::int32_t>, "path"_a, "values"_a.noconvert(), "k"_a, "length"_a,
        "weights"_a.noconvert(), "p"_a, "out"_a.noconvert(), "threads"_a);
}
