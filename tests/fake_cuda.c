/* A FAKE CUDA driver for tests, on machines without a GPU. It computes nothing and proves nothing
 * about a real one: device memory is a file, so that a test can plant bytes there and look at what
 * a clearing left. Built by tests/fakegpu.py with
 *   MEMORY   path of the file that is the device memory
 *   HELD     path of a file whose size in bytes is what the driver and others hold of it
 *   DEFECT   0 none; 1 memset does nothing; 2 copies to the host do nothing; 3 no such device;
 *            4 hangs; 5 memset fails; 6 memset leaves the last byte of each block
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int CUresult;
static unsigned char *memory;
static size_t total, used;

static size_t held(void) {
  struct stat s;
  return stat(HELD, &s) ? 0 : (size_t)s.st_size;
}

CUresult cuInit(unsigned flags) {
  struct stat s;
  int fd = open(MEMORY, O_RDWR);
  if (flags || fd < 0 || fstat(fd, &s)) return 999;
  total = (size_t)s.st_size;
  memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? 999 : 0;
}

CUresult cuDeviceGetByPCIBusId(int *device, const char *bus) {
  if (DEFECT == 3 || strcmp(bus, "0000:01:00.0")) return 101;
  *device = 0;
  return 0;
}

CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
  if (DEFECT == 4) sleep(600);
  *context = memory;
  return device;
}

CUresult cuCtxSetCurrent(void *context) { return context == memory ? 0 : 201; }
CUresult cuCtxSynchronize(void) { return 0; }

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = total - held() - used;
  *total_bytes = total;
  return 0;
}

/* Addresses are offsets from BASE, never pointers: nobody may read device memory as if it were. */
#define BASE 0x7000000000ull

CUresult cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (used + size > total - held()) return 2;
  *address = BASE + used;
  used += size;
  return 0;
}

CUresult cuMemsetD8_v2(uint64_t address, unsigned char value, size_t count) {
  if (DEFECT == 5) return 700;
  if (DEFECT != 1) memset(memory + (address - BASE), value, DEFECT == 6 ? count - 1 : count);
  return 0;
}

CUresult cuMemcpyDtoH_v2(void *to, uint64_t address, size_t count) {
  if (DEFECT != 2) memcpy(to, memory + (address - BASE), count);
  return 0;
}

CUresult cuMemHostAlloc(void **to, size_t size, unsigned flags) {
  *to = flags ? NULL : malloc(size);
  return *to ? 0 : 2;
}
