// Prints the words of csrc's Philox: of the counter and key in the arguments, or of a run of quads.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/words.h"

using namespace pyaegpu;

static uint64_t number(const char* text) { return std::strtoull(text, nullptr, 0); }

static void print_quad(const Quad& w) { std::printf("%u %u %u %u\n", w.x0, w.x1, w.x2, w.x3); }

int main(int argc, char** argv) {
  if (argc == 7) {
    const auto word = [&](int i) { return uint32_t(number(argv[i])); };
    print_quad(philox({word(1), word(2), word(3), word(4)}, word(5), word(6)));
    return 0;
  }
  const Noise noise{number(argv[1]), number(argv[2])};
  const uint64_t first = number(argv[3]), quads = number(argv[4]);
  const uint64_t distance = quads + cpu::kGroup;
  std::vector<uint32_t> planes(4 * distance);
  cpu::draw_words(noise, first, planes.data(), distance, quads);
  for (uint64_t q = 0; q < quads; ++q) {
    const Quad one = noise.quad(first + q);
    print_quad(
        {planes[q], planes[distance + q], planes[2 * distance + q], planes[3 * distance + q]});
    print_quad(one);
  }
}
