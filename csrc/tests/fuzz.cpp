// Calls the C ABI with random problems and compares with plain loops: headgate_fuzz WHAT ROUNDS SEED.
//
// WHAT is experts, gradients, route, layer, plan, probes or all. Round i has the seed SEED + i, so one round can be repeated alone. Built
// with a sanitizer (see fuzz.cmake), whose reports then name the round as well. That it would report anything is shown
// by two mistakes that can be asked for: WHAT = overrun and race.
#include <sanitizer/common_interface_defs.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "checks.h"
#include "exact_memory.h"

namespace {

struct Check {
  const char* name;
  void (*run)(fuzz::Random& random);
};

// Reads the first byte behind an array.
void overrun(fuzz::Random& random) {
  const fuzz::ExactArray<char> bytes(random.between(1, 9));
  const volatile char* const end = bytes.data() + bytes.size();
  std::printf("%d\n", *end);
}

// Two threads count in one variable.
void race(fuzz::Random& random) {
  volatile std::int64_t count = 0;
  const std::int64_t most = random.between(1000, 2000);
  const auto work = [&] {
    for (std::int64_t i = 0; i < most; ++i) count = count + 1;
  };
  std::thread other(work);
  work();
  other.join();
  std::printf("%lld\n", static_cast<long long>(count));
}

constexpr Check kMistakes[] = {{"overrun", overrun}, {"race", race}};
constexpr Check kChecks[] = {{"experts", fuzz::check_experts_forward},
                             {"gradients", fuzz::check_experts_backward},
                             {"route", fuzz::check_route},
                             {"layer", fuzz::check_layer},
                             {"plan", fuzz::check_plan},
                             {"probes", fuzz::check_probes}};

const char* current_name = "";
std::uint64_t current_seed = 0;

void say_how_to_repeat() {
  std::fprintf(stderr, "to repeat: headgate_fuzz %s 1 %llu\n", current_name,
               static_cast<unsigned long long>(current_seed));
}

bool passes(const Check& check, std::uint64_t num_rounds, std::uint64_t first_seed) {
  current_name = check.name;
  for (std::uint64_t i = 0; i < num_rounds; ++i) {
    current_seed = first_seed + i;
    fuzz::Random random(current_seed);
    try {
      check.run(random);
    } catch (const fuzz::Mismatch& mismatch) {
      std::fprintf(stderr, "%s: %s\n", check.name, mismatch.what());
      say_how_to_repeat();
      return false;
    }
  }
  std::printf("%s: %llu rounds passed\n", check.name, static_cast<unsigned long long>(num_rounds));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "headgate_fuzz takes experts, gradients, route, layer, plan, probes or all; the number of rounds; a seed\n");
    return 2;
  }
  __sanitizer_set_death_callback(say_how_to_repeat);
  const std::uint64_t num_rounds = std::strtoull(argv[2], nullptr, 10), seed = std::strtoull(argv[3], nullptr, 10);
  bool is_known = false;
  for (const Check& check : kChecks) {
    if (std::strcmp(argv[1], check.name) != 0 && std::strcmp(argv[1], "all") != 0) continue;
    is_known = true;
    if (!passes(check, num_rounds, seed)) return 1;
  }
  for (const Check& mistake : kMistakes) {
    if (std::strcmp(argv[1], mistake.name) != 0) continue;
    is_known = true;
    passes(mistake, num_rounds, seed);
  }
  if (!is_known) std::fprintf(stderr, "there is no check named %s\n", argv[1]);
  return is_known ? 0 : 2;
}
