/* Enrolment, release, renewal, attestation at an interval and take-back, as one manager, two hosts, an
 * owner and the network play them (T3, T5, T6, T12, K5, K6). What is checked:
 *
 *   appraised: a key goes only to the instance whose own evidence was appraised for this challenge,
 *              on an enrolled TPM, with every file allowed
 *   taken:     nothing is granted, by the order of the record, after the owner took its consent back
 *              or after a lease was ended; evidence at an interval that is refused ends the lease
 *   recorded:  no key leaves without its record on the disk, wherever the manager is killed
 *   once:      no challenge grants twice, nor says twice that a host is fresh
 *   nothing:   evidence at an interval grants nothing
 *
 * Each MUTANT takes one check away; each must break the property that is named beside it. The
 * adversary is the network: it keeps every piece of evidence that was ever sent and plays any of it
 * again, whole or with another receiving key (the relay). Host 0 is sound until it turns bad; host 1
 * is bad from the start and wants the key. Both TPMs are genuine, and either may be enrolled. A TPM
 * quotes what its own machine runs; the agent of a sound machine binds its own receiving key and no
 * other, which is what the kernel's measurement of that agent is for.
 *
 * Bounds: two hosts, CHALLENGES challenges with one answer each, one job, one owner, CRASHES kills.
 * WITHOUT_INTERVAL, for larger bounds, leaves attestation at an interval out.
 */

#ifndef CHALLENGES
#define CHALLENGES 3
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define NOBODY 2

mtype = { release, renewal, interval };

/* On the disk: survives a kill. */
bool enrolled[2];
bool consent = true;
bool used[CHALLENGES];
byte lease = NOBODY;            /* whose instance holds the live lease */
bool recorded[CHALLENGES];      /* a grant for this challenge is in the record */

/* The challenges that were signed; what is signed needs no memory. */
byte scope[CHALLENGES];         /* the host it was made for */
mtype role[CHALLENGES];
bool over[CHALLENGES];          /* its time has passed */
byte made = 0;

/* In the manager's memory: what it made for an interval counts there alone, and a kill forgets it. */
bool known[CHALLENGES];

/* The evidence that the network saw, by challenge. */
bool seen[CHALLENGES];
byte tpm[CHALLENGES];           /* whose TPM signed */
byte receiver[CHALLENGES];      /* the receiving key inside qualifyingData */
bool good[CHALLENGES];          /* what the TPM's own log says of that machine */

bool bad = false;               /* whether host 0 has turned bad */
byte kills = 0;

/* What the properties speak of. */
bool granted[CHALLENGES];
bool heard[CHALLENGES];         /* it made a host's standing fresh */
bool taken_back = false;
bool ended = false;             /* a lease was ended, and no release came since */

inline forget() {
    c = 0;
    do
    :: c < CHALLENGES -> known[c] = false; c++
    :: else -> c = 0; break
    od
}

inline kill_here() {
    if
    :: kills < CRASHES -> atomic { kills++; forget(); goto start }
    :: skip
    fi
}

/* The network brings evidence for challenge c, for the receiving key `to`. */
proctype Manager() {
    byte c, to;
    bool verdict, agreed;
start:
    do
    :: atomic { made < CHALLENGES ->           /* somebody asks for a challenge */
           if
           :: scope[made] = 0
           :: scope[made] = 1
           fi;
           if
           :: role[made] = release
           :: role[made] = renewal
#ifndef WITHOUT_INTERVAL
           :: role[made] = interval; known[made] = true
#endif
           fi;
           made++ }
    :: atomic { !enrolled[0] -> enrolled[0] = true }
    :: atomic { !enrolled[1] -> enrolled[1] = true }
    :: atomic {                                /* evidence, with whatever key is claimed for it */
           c = 0;
           do
           :: c + 1 < made -> c++
           :: c < made && seen[c] -> break
           :: c >= made || !seen[c] -> goto start
           od;
#ifdef MUTANT_UNBOUND                          /* breaks appraised: the key is not in the quote */
           if
           :: to = 0
           :: to = 1
           fi
#else
           to = receiver[c]
#endif
       }
       if
#ifdef MUTANT_UNENROLLED                       /* breaks appraised: any TPM will do */
       :: true -> skip
#else
       :: enrolled[tpm[c]] -> skip
       :: else -> goto start
#endif
       fi;
       if
#ifdef MUTANT_SCOPE                            /* breaks appraised: a challenge for anybody */
       :: true -> skip
#else
       :: scope[c] == tpm[c] -> skip
       :: else -> goto start
#endif
       fi;
       if
       :: over[c] -> goto start
       :: else -> skip
       fi;
#ifdef MUTANT_UNAPPRAISED                      /* breaks appraised: a quote that holds is enough */
       verdict = true;
#else
       verdict = good[c];
#endif
       agreed = consent;                       /* a first look, long before the decision */
       /* The owner may take back, and the manager be killed, between any two steps from here on. */
       kill_here();
#ifdef MUTANT_LATE_RECORD                      /* breaks recorded: the key first */
       if
       :: verdict && consent && !used[c] && role[c] == release && lease == NOBODY ->
          atomic { granted[c] = true; assert(recorded[c]) }
       :: else -> skip
       fi;
       kill_here();
#endif
       atomic {                                /* one transaction */
           if
#ifndef MUTANT_REUSE                           /* breaks once: the challenge counts again */
           :: used[c] && role[c] != interval -> goto start
#endif
#ifndef MUTANT_FORGOTTEN                       /* breaks once: what another process made counts */
           :: role[c] == interval && !known[c] -> goto start
#endif
           :: else -> skip
           fi;
           if
           :: role[c] == interval ->
              known[c] = false;
#ifndef MUTANT_KEPT                            /* breaks taken: a host gone bad keeps its lease */
              if
              :: (!verdict || !consent) && lease == tpm[c] -> lease = NOBODY; ended = true
              :: else -> skip
              fi;
#endif
              if
              :: verdict ->
                 assert(!heard[c]);                                    /* once */
                 heard[c] = true
              :: else -> skip
              fi;
              assert(lease != tpm[c] || (good[c] && !taken_back));     /* taken */
#ifndef MUTANT_INTERVAL                        /* breaks nothing: evidence of any role releases */
              goto start
#endif
           :: else -> used[c] = true
           fi;
           if
           :: !verdict ->                      /* a refusal; a lease of its own ends with it */
              if
              :: role[c] == renewal && lease == tpm[c] -> lease = NOBODY; ended = true
              :: else -> skip
              fi;
              goto start
           :: else -> skip
           fi;
#ifdef MUTANT_STALE_CONSENT                    /* breaks taken: what held a moment ago */
           if
           :: !agreed -> goto start
           :: else -> skip
           fi;
#else
           if
           :: !consent -> goto start
           :: else -> skip
           fi;
#endif
           if
           :: role[c] == release && lease != NOBODY -> goto start
#ifndef MUTANT_LAPSED                          /* breaks taken: more time on a lease that is over */
           :: role[c] == renewal && lease != tpm[c] -> goto start
#endif
           :: else -> skip
           fi;
           assert(role[c] != interval);                                /* nothing */
           assert(!taken_back);                                        /* taken */
           assert(role[c] == release || !ended);                       /* taken */
           assert(!recorded[c]);                                       /* once */
           recorded[c] = true;
           lease = tpm[c];
           if
           :: role[c] == release -> ended = false
           :: else -> skip
           fi
       }
       kill_here();
       atomic {                                /* the answer */
           assert(recorded[c]);                                        /* recorded */
           assert(good[c] && enrolled[tpm[c]] && scope[c] == tpm[c]);  /* appraised */
           assert(to == tpm[c]);                                       /* appraised */
#ifdef REACHED                                 /* breaks nothing: shows that keys do get out */
           assert(false);
#endif
           granted[c] = true
       }
    od
}

/* A machine answers a challenge, whoever it was made for, with its own TPM, for its own key. */
active proctype Hosts() {
    byte c;
    do
    :: atomic { c = 0;
           do
           :: c < made && !seen[c] ->
              if
              :: tpm[c] = 0; receiver[c] = 0; good[c] = !bad
              :: tpm[c] = 1; receiver[c] = 1; good[c] = false
              fi;
              seen[c] = true; break
           :: c + 1 < made -> c++
           :: else -> break
           od;
           c = 0 }
    :: atomic { !bad -> bad = true }
    od
}

/* A lease ends by itself, and challenges do; the owner takes back what it agreed to. */
active proctype TimeAndOwner() {
    byte c;
    do
    :: atomic { lease != NOBODY -> lease = NOBODY; ended = true }
    :: atomic { c = 0;
           do
           :: c < made && !over[c] -> over[c] = true; break
           :: c + 1 < made -> c++
           :: else -> break
           od;
           c = 0 }
    :: atomic { consent -> consent = false; taken_back = true }
    od
}

init {
    run Manager()
}
