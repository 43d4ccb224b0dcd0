# headgate_fuzz: the library's own files and random checks of them, in one instrumented program.
#
#   cmake -S . -B build/address -DHEADGATE_SANITIZE=address && cmake --build build/address --target headgate_fuzz
#   build/address/headgate_fuzz all 1000 0
#
# The tests add -DCMAKE_BUILD_TYPE=Debug, which builds in a third of the time and runs nearly as fast.
#
# It is included, not a folder of its own, since flags of single files (the instruction sets) hold in their folder only.
get_target_property(HEADGATE_SOURCES headgate SOURCES)
get_target_property(HEADGATE_DEFINITIONS headgate COMPILE_DEFINITIONS)
if(HEADGATE_SANITIZE STREQUAL "address")
  # Uses of null and of wrapped pointers are seen by AddressSanitizer anyway; to look for them takes 40 % of the build.
  set(HEADGATE_SANITIZERS -fsanitize=address,undefined -fno-sanitize=null,pointer-overflow -fno-sanitize-recover=all)
elseif(HEADGATE_SANITIZE STREQUAL "thread")
  set(HEADGATE_SANITIZERS -fsanitize=thread)
  # Threads share the work alike whatever the instruction set: the generic one stands for all.
  list(FILTER HEADGATE_SOURCES EXCLUDE REGEX "avx")
  list(REMOVE_ITEM HEADGATE_DEFINITIONS HEADGATE_X86)
else()
  message(FATAL_ERROR "HEADGATE_SANITIZE (=${HEADGATE_SANITIZE}) must be address or thread; leave it out for neither")
endif()

set(HEADGATE_CHECKS
  csrc/tests/experts_check.cpp
  csrc/tests/experts_problem.cpp
  csrc/tests/experts_reference.cpp
  csrc/tests/gradients_reference.cpp
  csrc/tests/layer_check.cpp
  csrc/tests/plan_check.cpp
  csrc/tests/probe_check.cpp
  csrc/tests/route_check.cpp
  csrc/tests/route_problem.cpp)
# The checks themselves are not what is in question, and build and run faster so.
set_source_files_properties(${HEADGATE_CHECKS} PROPERTIES COMPILE_OPTIONS "-O1;-fno-sanitize=all")

add_executable(headgate_fuzz EXCLUDE_FROM_ALL ${HEADGATE_SOURCES} ${HEADGATE_CHECKS} csrc/tests/fuzz.cpp)
target_link_libraries(headgate_fuzz PRIVATE Threads::Threads)
target_include_directories(headgate_fuzz PRIVATE csrc csrc/tests)
target_compile_features(headgate_fuzz PRIVATE cxx_std_17)
target_compile_definitions(headgate_fuzz PRIVATE ${HEADGATE_DEFINITIONS})
set_target_properties(headgate_fuzz PROPERTIES CXX_EXTENSIONS OFF)
target_compile_options(headgate_fuzz PRIVATE -g1 -Wall -Wextra -ffp-contract=fast -fno-trapping-math -fno-math-errno
  -fno-omit-frame-pointer ${HEADGATE_SANITIZERS})
target_link_options(headgate_fuzz PRIVATE ${HEADGATE_SANITIZERS})
