#include "checks.h"
#include "exact_memory.h"
#include "experts_problem.h"
#include "headgate.h"

namespace fuzz {

void check_probes(Random& random) {
  const std::int64_t num_words = random.below(random.one_in(4) ? 40000 : 200);
  const ExactArray<std::uint64_t> words(num_words);
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < num_words; ++i) sum += words[i] = random.bits();
  const headgate_threads threads = pick_threads(random);
  const int isa = pick_isa(random);
  std::uint64_t checksum = 0;
  int status = headgate_probe_read(words.data(), 8 * num_words, isa, &threads, &checksum);
  require(status == HEADGATE_OK && checksum == sum, "sum of " + std::to_string(num_words) + " words");
  status = headgate_probe_read(words.data(), 7, isa, &threads, &checksum);
  require(status == HEADGATE_BAD_ARGUMENT, "7 bytes are not refused");

  const std::int64_t wanted = random.below(1 << 18);
  std::int64_t num_done = -1;
  status = headgate_probe_multiply(wanted, static_cast<int>(random.below(3)), isa, &threads, &num_done);
  // One task is 2^14 steps of at most 24 registers of 32 products.
  const std::int64_t largest_task = std::int64_t{24 * 32} << 14;
  require(status == HEADGATE_OK && wanted <= num_done && num_done < wanted + largest_task,
          std::to_string(wanted) + " products: " + std::to_string(num_done) + " done");
  status = headgate_probe_multiply(wanted, 3, isa, &threads, &num_done);
  require(status == HEADGATE_BAD_ARGUMENT, "dtype 3 is not refused");
}

}  // namespace fuzz
