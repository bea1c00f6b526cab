/* How many threads pay: one for each physical core that this process may use. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "runtime.h"

/* The first hardware thread of `cpu`'s core, or `cpu` where the system does not say. */
static int first_sibling(int cpu)
{
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    if (!file) return cpu;
    if (fscanf(file, "%d", &first) != 1) first = cpu;
    fclose(file);
    return first;
}

/* Whole CPUs that the control group's quota allows, or INT32_MAX. More threads than that would be
   stopped in the middle of a kernel while the others wait for them. */
static int quota(void)
{
    long long microseconds, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file) return INT32_MAX;
    int fields = fscanf(file, "%lld %lld", &microseconds, &period);
    fclose(file);
    if (fields != 2 || period <= 0 || microseconds <= 0) return INT32_MAX;
    long long cpus = (microseconds + period - 1) / period;
    return cpus > INT32_MAX ? INT32_MAX : (int)cpus;
}

int optc_rt_usable_cores(void)
{
    cpu_set_t allowed, seen;
    int cores = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        return online < 1 ? 1 : (int)online;
    }
    CPU_ZERO(&seen);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        int core = first_sibling(cpu);
        if (core < 0 || core >= CPU_SETSIZE || CPU_ISSET(core, &seen)) continue;
        CPU_SET(core, &seen);
        ++cores;
    }
    int limit = quota();
    cores = cores < limit ? cores : limit;
    return cores < 1 ? 1 : cores;
}
